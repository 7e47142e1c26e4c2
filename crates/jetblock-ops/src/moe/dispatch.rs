//! Which rows each expert computes.

use std::ops::Range;

use super::Routes;
use crate::OpError;

/// The pairs of row and expert, in *slots*: experts ascending, rows ascending within an expert.
///
/// Filled by counting, so that no order ever depends on a hash or a thread; buffers are reused.
#[derive(Clone, Debug, Default)]
pub struct Dispatch {
    per_row: usize,
    row_count: usize,
    /// First slot of each expert, and the number of slots.
    starts: Vec<u32>,
    rows: Vec<u32>,
    weights: Vec<f32>,
}

impl Dispatch {
    const NAME: &'static str = "dispatch";

    /// Sorts the routes of `n_routed_experts` experts.
    pub fn fill(&mut self, routes: &Routes, n_routed_experts: usize) -> Result<(), OpError> {
        let Routes {
            per_row,
            experts,
            weights,
        } = routes;
        OpError::check_len(Self::NAME, "weights [R, k]", weights.len(), experts.len())?;
        if let Some(&e) = experts.iter().find(|&&e| e as usize >= n_routed_experts) {
            let expected = format!("below {n_routed_experts}");
            return Err(OpError::Value {
                op: Self::NAME,
                arg: "expert",
                expected,
                got: e.to_string(),
            });
        }
        self.per_row = *per_row;
        self.row_count = experts.len() / per_row.max(&1);
        self.starts.clear();
        self.starts.resize(n_routed_experts + 1, 0);
        for &e in experts {
            self.starts[e as usize + 1] += 1;
        }
        for e in 0..n_routed_experts {
            self.starts[e + 1] += self.starts[e];
        }
        self.rows.clear();
        self.rows.resize(experts.len(), 0);
        self.weights.clear();
        self.weights.resize(experts.len(), 0.0);
        for (i, (&e, &weight)) in experts.iter().zip(weights).enumerate() {
            // `starts[e]` moves to the end of expert e, which is the start of e + 1.
            let slot = &mut self.starts[e as usize];
            self.rows[*slot as usize] = (i / per_row) as u32;
            self.weights[*slot as usize] = weight;
            *slot += 1;
        }
        self.starts.rotate_right(1);
        self.starts[0] = 0;
        Ok(())
    }

    /// Experts.
    pub fn n_routed_experts(&self) -> usize {
        self.starts.len().saturating_sub(1)
    }

    /// Experts of a row.
    pub(super) fn per_row(&self) -> usize {
        self.per_row
    }

    /// Rows that were routed.
    pub fn row_count(&self) -> usize {
        self.row_count
    }

    /// The slots of an expert.
    pub fn slots(&self, expert: usize) -> Range<usize> {
        self.starts[expert] as usize..self.starts[expert + 1] as usize
    }

    /// The row of each slot.
    pub fn rows(&self) -> &[u32] {
        &self.rows
    }

    /// The weight of each slot.
    pub fn weights(&self) -> &[f32] {
        &self.weights
    }

    pub(super) fn check_combine(
        &self,
        slots: &Range<usize>,
        y: &[f32],
        width: usize,
        out: &[f32],
    ) -> Result<(), OpError> {
        const NAME: &str = "combine";
        if width == 0 || slots.start > slots.end || slots.end > self.rows.len() {
            let (expected, got) = (
                format!("inside 0..{}, width above 0", self.rows.len()),
                format!("{slots:?}, width {width}"),
            );
            return Err(OpError::Value {
                op: NAME,
                arg: "slots",
                expected,
                got,
            });
        }
        OpError::check_len(NAME, "y [slots, D]", y.len(), slots.len() * width)?;
        OpError::check_len(NAME, "out [R, D]", out.len(), self.row_count * width)
    }
}
