//! Why a model cannot be loaded or run.

use crate::checkpoint::CheckpointError;
use crate::config::ConfigError;
use crate::state::SequenceError;

/// Why a model cannot be loaded or run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The weight files.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// An operator refused its arguments.
    #[error(transparent)]
    Op(#[from] jetblock_ops::OpError),
    /// A choice outside its domain.
    #[error("option {field} is {got}, expected {expected}")]
    Option {
        /// The option.
        field: &'static str,
        /// Its domain.
        expected: &'static str,
        /// Its value.
        got: String,
    },
    /// A piece without tokens.
    #[error("a piece has no tokens, expected at least one")]
    EmptyPiece,
    /// A token the model does not have.
    #[error("token {index} is {id}, expected less than the vocabulary size {vocab_size}")]
    TokenOutOfRange {
        /// Position in the piece.
        index: usize,
        /// The token.
        id: u32,
        /// Vocabulary size.
        vocab_size: usize,
    },
    /// The state belongs to a model of other shapes or options.
    #[error("the sequence state belongs to a model with other shapes or options")]
    ForeignState,
    /// The sequence has failed before.
    #[error("the sequence cannot continue: {0}")]
    FailedSequence(SequenceError),
    /// Bytes that are not a saved state, or not whole.
    #[error("saved sequence state: {0}")]
    SavedState(String),
}
