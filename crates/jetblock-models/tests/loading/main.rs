//! Loading model folders: what is accepted, and what each refusal says.

mod checkpoint;
mod config;
mod folder;
mod hostile;
mod memory;
mod quantized;
