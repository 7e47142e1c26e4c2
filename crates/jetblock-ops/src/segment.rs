//! Which rows of a ragged batch belong to which sequence.

use std::ops::Range;

use crate::OpError;

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

    /// Segments of these lengths one after another, each after `start` tokens of its sequence.
    #[cfg(test)]
    pub(crate) fn consecutive(lengths: &[usize], start: usize) -> Vec<Segment> {
        let mut end = 0;
        let segment = |&len: &usize| {
            end += len;
            Segment {
                rows: end - len..end,
                start,
            }
        };
        lengths.iter().map(segment).collect()
    }

    /// `Ok` where there is one state of `len` elements for each segment.
    pub(crate) fn check_states(
        op: &'static str,
        arg: &'static str,
        segments: &[Segment],
        states: &[&mut [f32]],
        len: usize,
    ) -> Result<(), OpError> {
        OpError::check_len(
            op,
            "states, one for each segment,",
            states.len(),
            segments.len(),
        )?;
        states
            .iter()
            .try_for_each(|state| OpError::check_len(op, arg, state.len(), len))
    }

    /// `Ok` where the segments cover rows `0..rows` in order, without gaps.
    pub(crate) fn check_cover(
        op: &'static str,
        segments: &[Segment],
        rows: usize,
    ) -> Result<(), OpError> {
        let mut end = 0;
        for segment in segments {
            if segment.rows.start != end || segment.rows.end < end {
                let expected = format!("consecutive rows from {end}");
                return Err(OpError::Value {
                    op,
                    arg: "segments",
                    expected,
                    got: format!("{:?}", segment.rows),
                });
            }
            end = segment.rows.end;
        }
        if end != rows {
            let (expected, got) = (
                format!("segments that cover {rows} rows"),
                format!("{end} rows covered"),
            );
            return Err(OpError::Value {
                op,
                arg: "segments",
                expected,
                got,
            });
        }
        Ok(())
    }
}
