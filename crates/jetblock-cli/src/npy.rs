//! NumPy's `.npy` format, version 1.0: a header that is a Python literal, then the values.

use std::io::{self, Write};

/// Writes an array of f32 in C order.
pub(crate) fn write_f32(out: &mut impl Write, shape: &[usize], values: &[f32]) -> io::Result<()> {
    assert_eq!(
        values.len(),
        shape.iter().product::<usize>(),
        "values do not fill the shape {shape:?}"
    );
    let dims: Vec<String> = shape.iter().map(usize::to_string).collect();
    // A tuple of one is written with a comma.
    let comma = if shape.len() == 1 { "," } else { "" };
    let mut header = format!(
        "{{'descr': '<f4', 'fortran_order': False, 'shape': ({}{comma}), }}",
        dims.join(", ")
    );
    // Magic, version, length field, header and a line break fill whole blocks of 64 bytes.
    const PREFIX: usize = 10;
    let padding = (PREFIX + header.len() + 1).next_multiple_of(64) - (PREFIX + header.len() + 1);
    header.extend(std::iter::repeat_n(' ', padding));
    header.push('\n');
    let len = u16::try_from(header.len())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "too many dimensions"))?;
    out.write_all(b"\x93NUMPY\x01\x00")?;
    out.write_all(&len.to_le_bytes())?;
    out.write_all(header.as_bytes())?;
    for block in values.chunks(1 << 14) {
        let bytes: Vec<u8> = block.iter().flat_map(|value| value.to_le_bytes()).collect();
        out.write_all(&bytes)?;
    }
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn header_and_values_are_numpys() {
        let mut out = Vec::new();
        write_f32(
            &mut out,
            &[2, 3],
            &[0.0, -0.0, 1.0, f32::NAN, f32::MIN_POSITIVE, -2.5],
        )
        .unwrap();
        assert_eq!(&out[..10], b"\x93NUMPY\x01\x00\x76\x00");
        let header = std::str::from_utf8(&out[10..128]).unwrap();
        assert_eq!(
            header.trim_end(),
            "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }"
        );
        assert!(header.ends_with('\n'));
        assert_eq!(out.len(), 128 + 6 * 4);
        assert_eq!(out[128 + 4..128 + 8], (-0.0_f32).to_le_bytes());
    }

    #[test]
    fn one_dimension_has_a_comma() {
        let mut out = Vec::new();
        write_f32(&mut out, &[1], &[1.0]).unwrap();
        assert!(
            std::str::from_utf8(&out[10..128])
                .unwrap()
                .contains("'shape': (1,), }")
        );
    }
}
