//! The operators, one folder each: definition, reference, fast CPU version and tests side by side.
