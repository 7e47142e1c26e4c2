//! Bytes that are written as lower-case hex digits.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A digest of `N` bytes; in JSON and in text `2 * N` lower-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hex<const N: usize>(pub [u8; N]);

impl<const N: usize> fmt::Display for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl<const N: usize> fmt::Debug for Hex<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<const N: usize> FromStr for Hex<N> {
    type Err = String;

    fn from_str(text: &str) -> Result<Hex<N>, String> {
        let digit = |c: u8| match c {
            b'0'..=b'9' => Some(c - b'0'),
            b'a'..=b'f' => Some(c - b'a' + 10),
            _ => None,
        };
        let parse = || {
            let pairs: &[[u8; 2]; N] = text.as_bytes().as_chunks().0.try_into().ok()?;
            let mut bytes = [0; N];
            for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
                *byte = 16 * digit(*high)? + digit(*low)?;
            }
            (text.len() == 2 * N).then_some(Hex(bytes))
        };
        parse().ok_or_else(|| {
            let start: String = text.chars().take(80).collect();
            format!("{start:?}, expected {} lower-case hex digits", 2 * N)
        })
    }
}

impl<const N: usize> Serialize for Hex<N> {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de, const N: usize> Deserialize<'de> for Hex<N> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Hex<N>, D::Error> {
        let text = String::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_read_as_they_are_written() {
        let hex = Hex([0x00, 0x9F, 0xA0]);
        assert_eq!(hex.to_string(), "009fa0");
        assert_eq!("009fa0".parse(), Ok(hex));
        for bad in ["", "009fa", "009fa00", "009fA0", "009fg0", "00 9fa", "€€"] {
            assert!(bad.parse::<Hex<3>>().is_err(), "{bad}");
        }
    }
}
