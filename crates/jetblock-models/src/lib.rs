//! Model folders: configuration, weights, hybrid layer detector, layers and sequence state.
