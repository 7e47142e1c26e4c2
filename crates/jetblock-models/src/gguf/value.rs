//! Values of GGUF metadata, and typed access to them by key.

use std::collections::BTreeMap;

use crate::checkpoint::CheckpointError;
use crate::config::abbreviated;

/// A value.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the names are those of the file format")]
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// Values of one type.
#[derive(Debug, Clone, PartialEq)]
#[allow(missing_docs, reason = "the names are those of the file format")]
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
    String(Vec<String>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F64(Vec<f64>),
}

impl Value {
    /// As it appears in a message.
    pub(crate) fn shown(&self) -> String {
        let text = match self {
            Value::Array(_) => "an array".into(),
            other => format!("{other:?}"),
        };
        abbreviated(&text)
    }

    /// A whole number that is not negative, of any width.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Value::U8(n) => Some(n.into()),
            Value::U16(n) => Some(n.into()),
            Value::U32(n) => Some(n.into()),
            Value::U64(n) => Some(n),
            Value::I8(n) => n.try_into().ok(),
            Value::I16(n) => n.try_into().ok(),
            Value::I32(n) => n.try_into().ok(),
            Value::I64(n) => n.try_into().ok(),
            _ => None,
        }
    }
}

impl Array {
    /// Whole numbers that are not negative, of any width.
    fn to_u64s(&self) -> Option<Vec<u64>> {
        match self {
            Array::U8(list) => Some(list.iter().map(|n| u64::from(*n)).collect()),
            Array::U16(list) => Some(list.iter().map(|n| u64::from(*n)).collect()),
            Array::U32(list) => Some(list.iter().map(|n| u64::from(*n)).collect()),
            Array::U64(list) => Some(list.clone()),
            Array::I32(list) => list.iter().map(|n| (*n).try_into().ok()).collect(),
            Array::I64(list) => list.iter().map(|n| (*n).try_into().ok()).collect(),
            _ => None,
        }
    }
}

/// Metadata with the name of its file, for messages.
#[derive(Debug, Clone, Copy)]
pub struct Metadata<'a> {
    pub(super) file: &'a str,
    pub(super) values: &'a BTreeMap<String, Value>,
}

impl<'a> Metadata<'a> {
    /// A value.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.values.get(key)
    }

    /// An error about a key.
    pub fn wrong(&self, key: &str, expected: &str) -> CheckpointError {
        let got = self.get(key).map_or("missing".into(), Value::shown);
        CheckpointError::Malformed {
            file: self.file.into(),
            message: format!("{key} is {got}, expected {expected}"),
        }
    }

    /// A text, if there.
    pub fn text(&self, key: &str) -> Result<Option<&'a str>, CheckpointError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(self.wrong(key, "a text")),
        }
    }

    /// A truth value, if there.
    pub fn flag(&self, key: &str) -> Result<Option<bool>, CheckpointError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(*flag)),
            Some(_) => Err(self.wrong(key, "true or false")),
        }
    }

    /// A number, if there.
    pub fn number(&self, key: &str) -> Result<Option<f64>, CheckpointError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::F32(x)) => Ok(Some(f64::from(*x))),
            Some(Value::F64(x)) => Ok(Some(*x)),
            Some(_) => Err(self.wrong(key, "a number")),
        }
    }

    /// A token id, if there.
    pub fn token(&self, key: &str) -> Result<Option<u32>, CheckpointError> {
        match self.get(key).map(Value::as_u64) {
            None => Ok(None),
            Some(id) => match id.and_then(|id| u32::try_from(id).ok()) {
                Some(id) => Ok(Some(id)),
                None => Err(self.wrong(key, "a token id")),
            },
        }
    }

    /// A whole number in `least..=most`, if there.
    pub fn size(
        &self,
        key: &str,
        least: usize,
        most: usize,
    ) -> Result<Option<usize>, CheckpointError> {
        let Some(value) = self.get(key) else {
            return Ok(None);
        };
        value
            .as_u64()
            .and_then(|n| usize::try_from(n).ok())
            .filter(|n| (least..=most).contains(n))
            .map(Some)
            .ok_or_else(|| self.wrong(key, &format!("a whole number from {least} to {most}")))
    }

    /// A whole number in `1..=most`.
    pub fn required_size(&self, key: &str, most: usize) -> Result<usize, CheckpointError> {
        self.size(key, 1, most)?
            .ok_or_else(|| self.wrong(key, &format!("a whole number from 1 to {most}")))
    }

    /// One whole number in `0..=most` for each of `layers` layers; a single one stands for all.
    pub fn per_layer(
        &self,
        key: &str,
        layers: usize,
        most: usize,
    ) -> Result<Vec<usize>, CheckpointError> {
        let list = match self.get(key) {
            Some(Value::Array(array)) => array.to_u64s(),
            Some(value) => value.as_u64().map(|n| vec![n; layers]),
            None => None,
        };
        list.filter(|list| list.len() == layers)
            .and_then(|list| {
                list.into_iter()
                    .map(|n| usize::try_from(n).ok().filter(|n| *n <= most))
                    .collect()
            })
            .ok_or_else(|| {
                self.wrong(
                    key,
                    &format!("{layers} whole numbers from 0 to {most}, or one"),
                )
            })
    }

    /// Texts.
    pub fn texts(&self, key: &str) -> Result<&'a [String], CheckpointError> {
        match self.get(key) {
            Some(Value::Array(Array::String(list))) => Ok(list),
            _ => Err(self.wrong(key, "an array of texts")),
        }
    }
}
