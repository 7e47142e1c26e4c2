//! Which rows of a ragged batch belong to which sequence.

use std::ops::Range;

/// Consecutive rows of one sequence inside a step's matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Rows in the step's matrix.
    pub rows: Range<usize>,
    /// Tokens of the sequence before these rows: the absolute position of the first row.
    pub start: usize,
}

impl Segment {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether the segment has no rows.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}
