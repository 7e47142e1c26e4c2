//! The header of a GGUF file: magic, version, counts, metadata, the table of tensors.
//!
//! ```text
//! "GGUF"  version u32  tensors u64  pairs u64
//! pairs:    key string, type u32, value
//! tensors:  name string, rank u32, extents u64 (innermost first), type u32, offset u64 from the start of the data
//! padding to `general.alignment` (32), then the data
//! ```
//!
//! Little-endian throughout; a string is a u64 length and UTF-8. Every count and length is checked against the bytes that are left
//! before anything is reserved for it, so a header cannot ask for more memory than a small multiple of its own size.

use std::collections::BTreeMap;
use std::ops::Range;

use super::value::{Array, Value};
use crate::checkpoint::{BlockType, CheckpointError, StoredDType};
use crate::config::abbreviated;

/// The most dimensions of a tensor, as in the reference reader.
const MAX_RANK: u32 = 4;
/// The largest alignment that is accepted.
const MAX_ALIGNMENT: usize = 1 << 20;
const DEFAULT_ALIGNMENT: usize = 32;
/// Fewest bytes of a pair (an empty key, one byte of value), of a tensor (an empty name, rank 0), and of a string.
const LEAST_PAIR: usize = 8 + 4 + 1;
const LEAST_TENSOR: usize = 8 + 4 + 4 + 8;
const LEAST_STRING: usize = 8;

/// What a GGUF file says about itself and its tensors.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// 2 or 3; they differ in nothing that a little-endian reader sees.
    pub version: u32,
    /// Metadata by key.
    pub metadata: BTreeMap<String, Value>,
    /// The tensors, in the order of the table.
    pub tensors: Vec<Tensor>,
}

/// One tensor as the table describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tensor {
    /// The name in the file.
    pub name: String,
    /// Element type.
    pub dtype: StoredDType,
    /// Extents, outermost first.
    pub shape: Vec<usize>,
    /// Where its bytes lie, from the start of the file.
    pub bytes: Range<usize>,
}

impl Header {
    /// Reads and checks the header at the start of a file's bytes. `file` is its name in messages. No tensor data is read.
    pub fn parse(file: &str, bytes: &[u8]) -> Result<Header, CheckpointError> {
        let malformed = |message| CheckpointError::Malformed {
            file: file.into(),
            message,
        };
        let mut reader = Reader { bytes, at: 0 };
        let (version, metadata, raw) = reader.header().map_err(malformed)?;
        let data = match metadata.get("general.alignment") {
            None => reader.at.next_multiple_of(DEFAULT_ALIGNMENT),
            Some(Value::U32(n)) if is_alignment(*n) => reader.at.next_multiple_of(*n as usize),
            Some(other) => {
                return Err(malformed(format!(
                    "general.alignment is {}, expected a multiple of 8 up to {MAX_ALIGNMENT}",
                    other.shown()
                )));
            }
        };
        let mut tensors = Vec::with_capacity(raw.len());
        for tensor in raw {
            let name = tensor.name.clone();
            tensors.push(tensor.checked(data, bytes.len()).map_err(|message| {
                CheckpointError::MalformedTensor {
                    file: file.into(),
                    tensor: abbreviated(&name),
                    message,
                }
            })?);
        }
        check_apart(file, &tensors)?;
        Ok(Header {
            version,
            metadata,
            tensors,
        })
    }
}

fn is_alignment(n: u32) -> bool {
    n > 0 && n.is_multiple_of(8) && n as usize <= MAX_ALIGNMENT
}

/// No two tensors have one name or share a byte.
fn check_apart(file: &str, tensors: &[Tensor]) -> Result<(), CheckpointError> {
    let wrong = |tensor: &Tensor, message: String| CheckpointError::MalformedTensor {
        file: file.into(),
        tensor: abbreviated(&tensor.name),
        message,
    };
    let mut order: Vec<&Tensor> = tensors.iter().collect();
    order.sort_by(|a, b| a.name.cmp(&b.name));
    if let Some(pair) = order.windows(2).find(|pair| pair[0].name == pair[1].name) {
        return Err(wrong(pair[0], "listed twice".into()));
    }
    order.sort_by_key(|t| (t.bytes.start, t.bytes.end));
    match order
        .windows(2)
        .find(|pair| pair[1].bytes.start < pair[0].bytes.end)
    {
        None => Ok(()),
        Some(pair) => Err(wrong(
            pair[1],
            format!("starts inside tensor {}", abbreviated(&pair[0].name)),
        )),
    }
}

struct RawTensor {
    name: String,
    /// Innermost first.
    extents: Vec<u64>,
    ggml_type: u32,
    offset: u64,
}

impl RawTensor {
    fn checked(self, data: usize, file_bytes: usize) -> Result<Tensor, String> {
        let dtype = StoredDType::from_ggml(self.ggml_type).ok_or_else(|| {
            format!(
                "stored in type {}, expected F32, F16, BF16, {}",
                ggml_name(self.ggml_type),
                BlockType::ALL.map(BlockType::name).join(", ")
            )
        })?;
        let absurd = || format!("shape {:?} of {dtype} is too large", self.extents);
        let shape = self
            .extents
            .iter()
            .rev()
            .map(|n| usize::try_from(*n).map_err(|_| absurd()))
            .collect::<Result<Vec<_>, _>>()?;
        if shape.is_empty() || shape.contains(&0) {
            return Err(format!(
                "shape {shape:?}, expected at least one extent, each at least 1"
            ));
        }
        let (elements, block_bytes) = dtype.block();
        let row = shape[shape.len() - 1];
        if !row.is_multiple_of(elements) {
            return Err(format!(
                "rows of {row} elements of {dtype}, expected a multiple of {elements}"
            ));
        }
        let blocks = shape[..shape.len() - 1]
            .iter()
            .try_fold(row / elements, |n, extent| n.checked_mul(*extent));
        let length = blocks
            .and_then(|blocks| blocks.checked_mul(block_bytes))
            .ok_or_else(absurd)?;
        let start = usize::try_from(self.offset)
            .ok()
            .and_then(|offset| data.checked_add(offset));
        let end = start.and_then(|start| start.checked_add(length));
        match (start, end) {
            (Some(start), Some(end)) if end <= file_bytes => Ok(Tensor {
                name: self.name,
                dtype,
                shape,
                bytes: start..end,
            }),
            _ => Err(format!(
                "{length} bytes from offset {} of the data, but the file has {}: it is truncated",
                self.offset,
                file_bytes.saturating_sub(data)
            )),
        }
    }
}

/// Names of the types that exist, for messages.
fn ggml_name(id: u32) -> String {
    const NAMES: [(u32, &str); 24] = [
        (6, "Q5_0"),
        (7, "Q5_1"),
        (9, "Q8_1"),
        (10, "Q2_K"),
        (11, "Q3_K"),
        (13, "Q5_K"),
        (15, "Q8_K"),
        (16, "IQ2_XXS"),
        (17, "IQ2_XS"),
        (18, "IQ3_XXS"),
        (19, "IQ1_S"),
        (20, "IQ4_NL"),
        (21, "IQ3_S"),
        (22, "IQ2_S"),
        (23, "IQ4_XS"),
        (24, "I8"),
        (25, "I16"),
        (26, "I32"),
        (27, "I64"),
        (28, "F64"),
        (29, "IQ1_M"),
        (34, "TQ1_0"),
        (35, "TQ2_0"),
        (39, "MXFP4"),
    ];
    match NAMES.iter().find(|(known, _)| *known == id) {
        Some((_, name)) => (*name).to_string(),
        None => id.to_string(),
    }
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

type Parts = (u32, BTreeMap<String, Value>, Vec<RawTensor>);

impl<'a> Reader<'a> {
    fn header(&mut self) -> Result<Parts, String> {
        if self.take(4)? != b"GGUF" {
            return Err("does not start with GGUF".into());
        }
        let version = self.u32()?;
        if ![2, 3].contains(&version) {
            let hint = match version.swap_bytes() {
                2 | 3 => ": it is big-endian",
                _ => "",
            };
            return Err(format!("GGUF version {version}, expected 2 or 3{hint}"));
        }
        let (tensors, pairs) = (self.u64()?, self.u64()?);
        let pairs = self.count(pairs, LEAST_PAIR, "metadata pairs")?;
        let mut metadata = BTreeMap::new();
        for _ in 0..pairs {
            let key = self.string()?;
            let value = self
                .value()
                .map_err(|e| format!("{}: {e}", abbreviated(&key)))?;
            if metadata.insert(key.clone(), value).is_some() {
                return Err(format!("metadata {} is there twice", abbreviated(&key)));
            }
        }
        let tensors = self.count(tensors, LEAST_TENSOR, "tensors")?;
        let mut table = Vec::with_capacity(tensors);
        for _ in 0..tensors {
            table.push(self.tensor()?);
        }
        Ok((version, metadata, table))
    }

    fn tensor(&mut self) -> Result<RawTensor, String> {
        let name = self.string()?;
        let rank = self.u32()?;
        if rank > MAX_RANK {
            return Err(format!(
                "tensor {} has {rank} dimensions, expected at most {MAX_RANK}",
                abbreviated(&name)
            ));
        }
        let mut extents = Vec::new();
        for _ in 0..rank {
            extents.push(self.u64()?);
        }
        Ok(RawTensor {
            name,
            extents,
            ggml_type: self.u32()?,
            offset: self.u64()?,
        })
    }

    fn value(&mut self) -> Result<Value, String> {
        let kind = self.u32()?;
        Ok(match kind {
            0 => Value::U8(self.take(1)?[0]),
            1 => Value::I8(self.take(1)?[0].cast_signed()),
            2 => Value::U16(u16::from_le_bytes(self.array()?)),
            3 => Value::I16(i16::from_le_bytes(self.array()?)),
            4 => Value::U32(self.u32()?),
            5 => Value::I32(i32::from_le_bytes(self.array()?)),
            6 => Value::F32(f32::from_le_bytes(self.array()?)),
            7 => Value::Bool(self.bool()?),
            8 => Value::String(self.string()?),
            9 => Value::Array(self.elements()?),
            10 => Value::U64(self.u64()?),
            11 => Value::I64(i64::from_le_bytes(self.array()?)),
            12 => Value::F64(f64::from_le_bytes(self.array()?)),
            _ => return Err(format!("type {kind}, expected 0 to 12")),
        })
    }

    fn elements(&mut self) -> Result<Array, String> {
        let kind = self.u32()?;
        let count = self.u64()?;
        Ok(match kind {
            0 => Array::U8(self.list(count, |b: [u8; 1]| b[0])?),
            1 => Array::I8(self.list(count, |b: [u8; 1]| b[0].cast_signed())?),
            2 => Array::U16(self.list(count, u16::from_le_bytes)?),
            3 => Array::I16(self.list(count, i16::from_le_bytes)?),
            4 => Array::U32(self.list(count, u32::from_le_bytes)?),
            5 => Array::I32(self.list(count, i32::from_le_bytes)?),
            6 => Array::F32(self.list(count, f32::from_le_bytes)?),
            7 => Array::Bool(self.list(count, |b: [u8; 1]| b[0] != 0)?),
            8 => {
                let count = self.count(count, LEAST_STRING, "strings")?;
                let mut list = Vec::with_capacity(count);
                for _ in 0..count {
                    list.push(self.string()?);
                }
                Array::String(list)
            }
            9 => return Err("an array of arrays, which no known key has".into()),
            10 => Array::U64(self.list(count, u64::from_le_bytes)?),
            11 => Array::I64(self.list(count, i64::from_le_bytes)?),
            12 => Array::F64(self.list(count, f64::from_le_bytes)?),
            _ => return Err(format!("elements of type {kind}, expected 0 to 12")),
        })
    }

    fn list<T, const N: usize>(
        &mut self,
        count: u64,
        read: impl Fn([u8; N]) -> T,
    ) -> Result<Vec<T>, String> {
        let count = self.count(count, N, "elements")?;
        let bytes = self.take(count * N)?;
        Ok(bytes.as_chunks().0.iter().map(|b| read(*b)).collect())
    }

    /// `count`, if that many things of at least `least` bytes can follow.
    fn count(&self, count: u64, least: usize, what: &str) -> Result<usize, String> {
        let left = self.bytes.len() - self.at;
        usize::try_from(count)
            .ok()
            .filter(|count| *count <= left / least)
            .ok_or_else(|| format!("{count} {what}, but only {left} bytes follow"))
    }

    fn string(&mut self) -> Result<String, String> {
        let length = self.u64()?;
        let length = self.count(length, 1, "bytes of text")?;
        let bytes = self.take(length)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_string()),
            Err(e) => Err(format!("text at byte {}: {e}", self.at - length)),
        }
    }

    fn bool(&mut self) -> Result<bool, String> {
        match self.take(1)?[0] {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(format!("a truth value of {other}, expected 0 or 1")),
        }
    }

    fn u32(&mut self) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64, String> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        Ok(*self.take(N)?.first_chunk().expect("N bytes were taken"))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], String> {
        let left = &self.bytes[self.at..];
        match left.split_at_checked(length) {
            Some((taken, _)) => {
                self.at += length;
                Ok(taken)
            }
            None => Err(format!(
                "{length} more bytes expected, {} left: the file is truncated",
                left.len()
            )),
        }
    }
}
