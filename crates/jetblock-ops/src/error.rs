//! What can be wrong with an op's arguments.

/// Invalid arguments of an op; the message names the op, the argument, expected and got.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum OpError {
    /// A slice or tensor has the wrong extent.
    #[error("{op}: {arg} has {got} elements, expected {expected}")]
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
    #[error("{op}: {arg} is {got}, expected {expected}")]
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
    #[error("{op}: {arg} is NaN at index {index}")]
    Nan {
        /// The op.
        op: &'static str,
        /// The argument.
        arg: &'static str,
        /// Flat index of the first NaN.
        index: usize,
    },
}

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
}
