//! The header of a safetensors file: 8 bytes of length, then a JSON object from tensor names to types, shapes and offsets.
//!
//! A header is accepted only if its tensors tile the rest of the file exactly: no overlap, no hole, no byte outside, every
//! length the product of the shape and the element size, every name once. The safetensors crate checks most of this, but
//! keeps the last of two equal names and does not say which tensor was wrong how.

use std::fmt;
use std::io::Read;
use std::ops::Range;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _, MapAccess, Visitor};

use super::{CheckpointError, StoredDType};
use crate::config::abbreviated;

/// The longest header that is read, as in the reference reader.
pub const MAX_HEADER_BYTES: u64 = 100_000_000;

/// The most dimensions of a tensor.
pub const MAX_RANK: usize = 16;

const LENGTH_BYTES: u64 = 8;

/// The tensors of one file, in file order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The tensors by ascending offset.
    pub tensors: Vec<StoredTensor>,
}

/// One tensor as a header describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredTensor {
    /// The name in the file.
    pub name: String,
    /// Element type.
    pub dtype: StoredDType,
    /// Extents, outermost first.
    pub shape: Vec<usize>,
    /// Where its bytes lie, from the start of the file.
    pub bytes: Range<u64>,
}

impl Header {
    /// Reads and checks the header at the start of a file of `file_bytes` bytes. `file` is its name in messages. No tensor
    /// data is read.
    pub fn read(
        file: &str,
        mut from: impl Read,
        file_bytes: u64,
    ) -> Result<Header, CheckpointError> {
        let malformed = |message| CheckpointError::Malformed {
            file: file.into(),
            message,
        };
        let io = |source| CheckpointError::Io {
            path: file.into(),
            source,
        };
        if file_bytes < LENGTH_BYTES {
            return Err(malformed(format!(
                "{file_bytes} bytes, expected at least {LENGTH_BYTES}"
            )));
        }
        let mut length = [0; LENGTH_BYTES as usize];
        from.read_exact(&mut length).map_err(io)?;
        let length = u64::from_le_bytes(length);
        if length > MAX_HEADER_BYTES {
            return Err(malformed(format!(
                "a header of {length} bytes, expected at most {MAX_HEADER_BYTES}"
            )));
        }
        if length > file_bytes - LENGTH_BYTES {
            let rest = file_bytes - LENGTH_BYTES;
            return Err(malformed(format!(
                "a header of {length} bytes, but only {rest} follow: the file is truncated"
            )));
        }
        let mut text = Vec::new();
        from.take(length).read_to_end(&mut text).map_err(io)?;
        if text.len() as u64 != length {
            return Err(malformed("the file shrank while it was read".into()));
        }
        let start = LENGTH_BYTES + length;
        Ok(Header {
            tensors: checked_tensors(file, &text, start..file_bytes)?,
        })
    }

    /// Reads and checks the header of a file that is in memory.
    pub fn parse(file: &str, bytes: &[u8]) -> Result<Header, CheckpointError> {
        Header::read(file, bytes, bytes.len() as u64)
    }
}

fn checked_tensors(
    file: &str,
    text: &[u8],
    data: Range<u64>,
) -> Result<Vec<StoredTensor>, CheckpointError> {
    let malformed = |message| CheckpointError::Malformed {
        file: file.into(),
        message,
    };
    if text.first() != Some(&b'{') {
        return Err(malformed("the header is not a JSON object".into()));
    }
    let raw: RawHeader = serde_json::from_slice(text)
        .map_err(|e| malformed(format!("the header is not valid: {e}")))?;
    let mut tensors = Vec::with_capacity(raw.0.len());
    for (name, info) in raw.0 {
        let wrong = |message| CheckpointError::MalformedTensor {
            file: file.into(),
            tensor: name.clone(),
            message,
        };
        tensors.push(info.checked(&name, &data).map_err(wrong)?);
    }
    check_names(file, &tensors)?;
    tensors.sort_by_key(|t| (t.bytes.start, t.bytes.end));
    check_tiling(file, &tensors, data)?;
    Ok(tensors)
}

fn check_names(file: &str, tensors: &[StoredTensor]) -> Result<(), CheckpointError> {
    let mut names: Vec<&str> = tensors.iter().map(|t| t.name.as_str()).collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        None => Ok(()),
        Some(pair) => Err(CheckpointError::MalformedTensor {
            file: file.into(),
            tensor: pair[0].into(),
            message: "listed twice in the header".into(),
        }),
    }
}

/// `tensors` are in file order: each must start where the one before it ends.
fn check_tiling(
    file: &str,
    tensors: &[StoredTensor],
    data: Range<u64>,
) -> Result<(), CheckpointError> {
    let mut end = data.start;
    for (i, tensor) in tensors.iter().enumerate() {
        let wrong = |message| CheckpointError::MalformedTensor {
            file: file.into(),
            tensor: tensor.name.clone(),
            message,
        };
        let (at, expected) = (tensor.bytes.start - data.start, end - data.start);
        if at < expected {
            return Err(wrong(format!(
                "starts at byte {at}, inside tensor {}",
                tensors[i - 1].name
            )));
        }
        if at > expected {
            return Err(wrong(format!(
                "starts at byte {at}, expected {expected}: the bytes between belong to no tensor"
            )));
        }
        end = tensor.bytes.end;
    }
    if end == data.end {
        return Ok(());
    }
    let (got, used) = (data.end - data.start, end - data.start);
    Err(CheckpointError::Malformed {
        file: file.into(),
        message: format!("{got} bytes of data, expected {used}: the rest belongs to no tensor"),
    })
}

/// What a header says about one tensor, unchecked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTensor {
    dtype: String,
    shape: Vec<u64>,
    data_offsets: (u64, u64),
}

impl RawTensor {
    fn checked(self, name: &str, data: &Range<u64>) -> Result<StoredTensor, String> {
        let dtype = StoredDType::from_name(&self.dtype)
            .ok_or_else(|| format!("dtype {:?} is unknown", abbreviated(&self.dtype)))?;
        if self.shape.len() > MAX_RANK {
            return Err(format!(
                "{} dimensions, expected at most {MAX_RANK}",
                self.shape.len()
            ));
        }
        // An extent of 0 must not hide absurd ones: products of a part of the extents are taken later.
        let bits = self.shape.iter().try_fold(dtype.bits(), |bits, extent| {
            bits.checked_mul((*extent).max(1))
        });
        let bits = bits.map(|bits| if self.shape.contains(&0) { 0 } else { bits });
        let length = bits
            .filter(|bits| bits.is_multiple_of(8))
            .map(|bits| bits / 8);
        let length = length.ok_or_else(|| {
            format!(
                "shape {:?} of {dtype} is not a whole number of bytes below 2^61",
                self.shape
            )
        })?;
        let (begin, end) = self.data_offsets;
        let available = data.end - data.start;
        if begin > end {
            return Err(format!(
                "data_offsets [{begin}, {end}], expected ascending ones"
            ));
        }
        if end > available {
            return Err(format!(
                "ends at byte {end} of the data, but the file has {available}: it is truncated"
            ));
        }
        if end - begin != length {
            let got = end - begin;
            return Err(format!(
                "{got} bytes of data, expected {length} for shape {:?} of {dtype}",
                self.shape
            ));
        }
        let shape = self
            .shape
            .iter()
            .map(|extent| usize::try_from(*extent))
            .collect::<Result<_, _>>();
        Ok(StoredTensor {
            name: name.into(),
            dtype,
            shape: shape
                .map_err(|_| format!("shape {:?} does not fit this machine", self.shape))?,
            bytes: data.start + begin..data.start + end,
        })
    }
}

/// All entries in order, equal names included: a map would silently keep the last.
struct RawHeader(Vec<(String, RawTensor)>);

impl<'de> Deserialize<'de> for RawHeader {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_map(RawHeaderVisitor)
    }
}

struct RawHeaderVisitor;

impl<'de> Visitor<'de> for RawHeaderVisitor {
    type Value = RawHeader;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<RawHeader, A::Error> {
        let mut tensors = Vec::new();
        let mut has_metadata = false;
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                if std::mem::replace(&mut has_metadata, true) {
                    return Err(A::Error::custom("__metadata__ is listed twice"));
                }
                let named = |e| A::Error::custom(format!("__metadata__: {e}"));
                map.next_value::<std::collections::BTreeMap<String, String>>()
                    .map_err(named)?;
                continue;
            }
            let named = |e| A::Error::custom(format!("tensor {}: {e}", abbreviated(&name)));
            let tensor = map.next_value().map_err(named)?;
            tensors.push((name, tensor));
        }
        Ok(RawHeader(tensors))
    }
}
