//! The jetblock command.
fn main() {}
