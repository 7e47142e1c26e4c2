//! Model folders: configuration, weights, hybrid layer detector, layers and sequence state.

pub mod checkpoint;
pub mod config;
pub mod detector;
mod digests;
mod error;
pub mod gguf;
mod mlp;
pub mod model;
mod moe;
pub mod quantize;
mod saved_state;
mod state;
mod workspace;

pub use digests::ModelDigests;
pub use error::ModelError;
pub use model::{LayerRows, LoadProgress, LogitRows, Model, Observe, Options, Piece, PieceResult};
pub use saved_state::{Prefixes, StateCodec, StatePiece};
pub use state::{SequenceError, SequenceState};
pub use workspace::Workspace;
