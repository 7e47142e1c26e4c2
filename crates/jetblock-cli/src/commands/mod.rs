//! One module per command: its arguments and its `run`.

pub(crate) mod bench;
pub(crate) mod demo;
pub(crate) mod diff;
pub(crate) mod env;
pub(crate) mod eval;
pub(crate) mod fetch;
pub(crate) mod generate;
pub(crate) mod logits;
pub(crate) mod profile;
pub(crate) mod quantize;
pub(crate) mod verify;
