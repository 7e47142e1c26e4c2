//! Reading the NumPy arrays of reference data.
//!
//! Version 1 of the format, little-endian, C order, `f4` or `i8` (NumPy's names for f32 and i64): what the fixtures are.

use std::path::Path;

/// A NumPy array.
#[derive(Debug, Clone, PartialEq)]
pub struct Npy<T> {
    /// Extents, outermost first; empty for a scalar.
    pub shape: Vec<usize>,
    /// The elements, row-major.
    pub data: Vec<T>,
}

/// Reads an f32 array.
///
/// # Panics
/// If the file is missing or holds anything else.
pub fn read_npy_f32(path: impl AsRef<Path>) -> Npy<f32> {
    read(path.as_ref(), "<f4", f32::from_le_bytes)
}

/// Reads an i64 array.
///
/// # Panics
/// If the file is missing or holds anything else.
pub fn read_npy_i64(path: impl AsRef<Path>) -> Npy<i64> {
    read(path.as_ref(), "<i8", i64::from_le_bytes)
}

fn read<T, const SIZE: usize>(path: &Path, descr: &str, element: fn([u8; SIZE]) -> T) -> Npy<T> {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    parse(&bytes, descr, element).unwrap_or_else(|what| panic!("{}: {what}", path.display()))
}

fn parse<T, const SIZE: usize>(
    bytes: &[u8],
    descr: &str,
    element: fn([u8; SIZE]) -> T,
) -> Result<Npy<T>, String> {
    let rest = bytes
        .strip_prefix(b"\x93NUMPY\x01\x00")
        .ok_or("not a NumPy file of version 1")?;
    let (length, rest) = rest.split_first_chunk().ok_or("no header length")?;
    let (header, data) = rest
        .split_at_checked(u16::from_le_bytes(*length).into())
        .ok_or("no header")?;
    let header = std::str::from_utf8(header).map_err(|e| e.to_string())?;
    if !header.contains(&format!("'descr': '{descr}'"))
        || !header.contains("'fortran_order': False")
    {
        return Err(format!(
            "header {}, expected {descr} in C order",
            header.trim()
        ));
    }
    let shape = header
        .split_once("'shape': (")
        .and_then(|(_, s)| s.split_once(')'))
        .ok_or("no shape")?
        .0;
    let extents = shape.split(',').map(str::trim).filter(|s| !s.is_empty());
    let shape: Vec<usize> = extents
        .map(|s| s.parse().map_err(|_| format!("extent {s}")))
        .collect::<Result<_, _>>()?;
    let (elements, tail) = data.as_chunks::<SIZE>();
    if !tail.is_empty() || elements.len() != shape.iter().product() {
        return Err(format!("{} bytes of data for shape {shape:?}", data.len()));
    }
    Ok(Npy {
        shape,
        data: elements.iter().map(|bytes| element(*bytes)).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        let length = (header.len() as u16).to_le_bytes();
        [b"\x93NUMPY\x01\x00", &length[..], header.as_bytes(), data].concat()
    }

    #[test]
    fn arrays_and_scalars_are_read() {
        let matrix = file(
            "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 2), }  \n",
            &[0, 0, 128, 63, 0, 0, 0, 64],
        );
        assert_eq!(
            parse(&matrix, "<f4", f32::from_le_bytes),
            Ok(Npy {
                shape: vec![1, 2],
                data: vec![1.0, 2.0]
            })
        );
        let scalar = file(
            "{'descr': '<i8', 'fortran_order': False, 'shape': (), }\n",
            &19_i64.to_le_bytes(),
        );
        assert_eq!(
            parse(&scalar, "<i8", i64::from_le_bytes),
            Ok(Npy {
                shape: vec![],
                data: vec![19]
            })
        );
    }

    #[test]
    fn other_files_are_refused() {
        let header = "{'descr': '<f4', 'fortran_order': False, 'shape': (3,), }\n";
        assert_eq!(
            parse(&file(header, &[0; 8]), "<f4", f32::from_le_bytes).unwrap_err(),
            "8 bytes of data for shape [3]"
        );
        assert!(
            parse(&file(header, &[0; 12]), "<i8", i64::from_le_bytes)
                .unwrap_err()
                .contains("expected <i8")
        );
        assert!(parse(b"PK\x03\x04", "<f4", f32::from_le_bytes).is_err());
    }
}
