//! Model folders: configuration, weights, hybrid layer detector, layers and sequence state.

pub mod checkpoint;
pub mod config;
pub mod detector;
mod error;
mod moe;
pub mod nemotron_h;
mod saved_state;
mod state;
mod workspace;

pub use error::ModelError;
pub use nemotron_h::{LoadProgress, LogitRows, NemotronH, Options, Piece, PieceResult};
pub use state::{SequenceError, SequenceState};
pub use workspace::Workspace;
