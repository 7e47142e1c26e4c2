//! What can be wrong with an op's arguments.

use std::fmt;

/// Invalid arguments of an op; the message names the op, the argument, expected and got.
///
/// Written without a derive macro: what this crate depends on decides how often its kernels are compiled again.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum OpError {
    /// A slice or tensor has the wrong extent.
    Length {
        /// The op.
        op: &'static str,
        /// The argument, with its shape in words, such as `weight [D]`.
        arg: &'static str,
        /// Elements it must have.
        expected: usize,
        /// Elements it has.
        got: usize,
    },
    /// A dimension or parameter is outside its domain.
    Value {
        /// The op.
        op: &'static str,
        /// The parameter.
        arg: &'static str,
        /// The domain, in words.
        expected: String,
        /// Its value, in words.
        got: String,
    },
    /// A value that must be a number is NaN.
    Nan {
        /// The op.
        op: &'static str,
        /// The argument.
        arg: &'static str,
        /// Flat index of the first NaN.
        index: usize,
    },
}

impl fmt::Display for OpError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpError::Length {
                op,
                arg,
                expected,
                got,
            } => write!(f, "{op}: {arg} has {got} elements, expected {expected}"),
            OpError::Value {
                op,
                arg,
                expected,
                got,
            } => write!(f, "{op}: {arg} is {got}, expected {expected}"),
            OpError::Nan { op, arg, index } => write!(f, "{op}: {arg} is NaN at index {index}"),
        }
    }
}

impl std::error::Error for OpError {}

impl OpError {
    /// `Ok` where `got == expected`.
    pub fn check_len(
        op: &'static str,
        arg: &'static str,
        got: usize,
        expected: usize,
    ) -> Result<(), OpError> {
        if got == expected {
            Ok(())
        } else {
            Err(OpError::Length {
                op,
                arg,
                expected,
                got,
            })
        }
    }

    /// `Ok` where `len` elements are whole rows of `row_len`.
    pub(crate) fn check_rows(
        op: &'static str,
        arg: &'static str,
        len: usize,
        row_len: usize,
    ) -> Result<(), OpError> {
        if row_len == 0 {
            return Err(OpError::Value {
                op,
                arg: "row length",
                expected: "at least 1".into(),
                got: "0".into(),
            });
        }
        OpError::check_len(op, arg, len, len / row_len * row_len)
    }

    /// `Ok` for what may be added to a variance.
    pub(crate) fn check_eps(op: &'static str, eps: f32) -> Result<(), OpError> {
        if eps.is_finite() && eps >= 0.0 {
            return Ok(());
        }
        Err(OpError::Value {
            op,
            arg: "eps",
            expected: "finite and >= 0".into(),
            got: eps.to_string(),
        })
    }
}
