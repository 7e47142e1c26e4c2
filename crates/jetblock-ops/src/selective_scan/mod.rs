//! The Mamba-2 recurrence over the tokens of each sequence.
//!
//! For each token and head: `dt = clamp(softplus(dt_raw + dt_bias))`, `dA = exp(dt * a)`; for each p and n, with
//! `v = dt * x[p]`: `S[p, n] = fma(dA, S[p, n], v * B[n])`; `y[p] = dot(S[p, :], C)` in blocks of 32 along n; then
//! `y[p] = fma(D, x[p], y[p])`. Dao and Gu 2024, "Transformers are SSMs". NUMERICS.md section 7, steps 4 and 5.
//!
//! | name    | shape       | dtype                                                                   |
//! |---------|-------------|-------------------------------------------------------------------------|
//! | x       | `[R, H, P]` | f32, columns of a wider matrix; rows of all sequences one after another |
//! | b, c    | `[R, G, N]` | f32, likewise; head h uses group `h / (H / G)`                          |
//! | dt_raw  | `[R, H]`    | f32, likewise                                                           |
//! | dt_bias | `[H]`       | f32                                                                     |
//! | a       | `[H]`       | f32, [`decay_rates`] of A_log                                           |
//! | d       | `[H]`       | f32                                                                     |
//! | state   | `[H, N, P]` | f32, one for each sequence; zeros before the first token                |
//! | y       | `[R, H, P]` | f32                                                                     |
//!
//! Rounding points: `dt_raw + dt_bias`; those of softplus; `dt * a`; those of exp; `dt * x`; `v * B`; the fma into S;
//! each fma and block sum of the dot product; the last fma.
//!
//! The state is kept with p contiguous, because p is where the independent outputs lie. Digests and snapshots use
//! `[H, P, N]`: [`state_to_canonical`].
//!
//! One row for each segment is what other libraries call `selective_state_update`. It is the same code, and there is
//! no chunked form: where a prompt is split cannot be seen in the result.

mod cpu;
mod reference;
#[cfg(test)]
mod tests;

use jetblock_numerics::{canonical, math::exp};

use crate::{Columns, OpError, Segment};

/// Arguments of the scan.
#[derive(Clone, Debug)]
pub struct SelectiveScan<'a> {
    /// Input rows, `[R, H * P]`.
    pub x: Columns<'a>,
    /// What a token writes into the state, `[R, G * N]`.
    pub b: Columns<'a>,
    /// How a token reads the state, `[R, G * N]`.
    pub c: Columns<'a>,
    /// Time step before bias and softplus, `[R, H]`.
    pub dt_raw: Columns<'a>,
    /// Bias of the time step, `[H]`.
    pub dt_bias: &'a [f32],
    /// Decay rate, `[H]`; see [`decay_rates`].
    pub a: &'a [f32],
    /// Weight of the skip connection, `[H]`.
    pub d: &'a [f32],
    /// Number of groups G; divides H.
    pub groups: usize,
    /// Least and greatest time step (`time_step_limit`).
    pub dt_limit: (f32, f32),
    /// Which rows belong to which sequence; they cover all rows in order.
    pub segments: &'a [Segment],
}

/// `-exp(A_log)`.
pub fn decay_rates(a_log: &[f32]) -> Vec<f32> {
    a_log.iter().map(|&a_log| canonical(-exp(a_log))).collect()
}

/// Rewrites a state from `[H, N, P]` to `[H, P, N]`.
///
/// # Panics
/// If the length is not a multiple of `state_len * head_dim`.
pub fn state_to_canonical(state: &[f32], state_len: usize, head_dim: usize) -> Vec<f32> {
    transpose_heads(state, state_len, head_dim)
}

/// Rewrites a state from `[H, P, N]` to `[H, N, P]`.
///
/// # Panics
/// If the length is not a multiple of `state_len * head_dim`.
pub fn state_from_canonical(state: &[f32], state_len: usize, head_dim: usize) -> Vec<f32> {
    transpose_heads(state, head_dim, state_len)
}

/// `[H, rows, cols]` to `[H, cols, rows]`.
fn transpose_heads(state: &[f32], rows: usize, cols: usize) -> Vec<f32> {
    let size = rows * cols;
    assert!(
        size > 0 && state.len().is_multiple_of(size),
        "a state of {} with heads of {rows} x {cols}",
        state.len()
    );
    (0..state.len())
        .map(|i| state[i / size * size + i % rows * cols + i % size / rows])
        .collect()
}

impl SelectiveScan<'_> {
    const NAME: &'static str = "selective_scan";

    /// Checks shapes and domains.
    pub fn check(&self) -> Result<(), OpError> {
        let (op, heads) = (Self::NAME, self.heads());
        let value = |arg, expected: String, got: String| {
            Err(OpError::Value {
                op,
                arg,
                expected,
                got,
            })
        };
        if heads == 0 || self.x.width() == 0 || !self.x.width().is_multiple_of(heads) {
            let expected = format!("a positive multiple of H = {heads} columns");
            return value(
                "x [R, H, P]",
                expected,
                format!("{} columns", self.x.width()),
            );
        }
        if self.groups == 0 || !heads.is_multiple_of(self.groups) {
            return value(
                "groups",
                format!("a divisor of H = {heads}"),
                self.groups.to_string(),
            );
        }
        if self.b.width() == 0 || !self.b.width().is_multiple_of(self.groups) {
            let expected = format!("a positive multiple of G = {} columns", self.groups);
            return value(
                "b [R, G, N]",
                expected,
                format!("{} columns", self.b.width()),
            );
        }
        let (lo, hi) = self.dt_limit;
        if !(lo >= 0.0 && lo <= hi) {
            return value(
                "dt_limit",
                "0 <= least <= greatest".to_owned(),
                format!("({lo}, {hi})"),
            );
        }
        OpError::check_len(op, "a [H]", self.a.len(), heads)?;
        OpError::check_len(op, "d [H]", self.d.len(), heads)?;
        let rows = self.rows();
        self.x.check(op, "x [R, H, P]", rows, self.x.width())?;
        self.b.check(op, "b [R, G, N]", rows, self.b.width())?;
        self.c.check(op, "c [R, G, N]", rows, self.b.width())?;
        self.dt_raw.check(op, "dt_raw [R, H]", rows, heads)?;
        Segment::check_cover(op, self.segments, rows)
    }

    fn check_all(&self, states: &[&mut [f32]], out: &[f32]) -> Result<(), OpError> {
        self.check()?;
        let len = self.state_len() * self.x.width();
        Segment::check_states(Self::NAME, "state [H, N, P]", self.segments, states, len)?;
        OpError::check_len(
            Self::NAME,
            "out [R, H, P]",
            out.len(),
            self.rows() * self.x.width(),
        )
    }

    fn rows(&self) -> usize {
        self.x.data.len() / self.x.row_len.max(1)
    }

    fn heads(&self) -> usize {
        self.dt_bias.len()
    }

    /// P.
    fn head_dim(&self) -> usize {
        self.x.width() / self.heads()
    }

    /// N.
    fn state_len(&self) -> usize {
        self.b.width() / self.groups
    }

    /// Columns of `b` and `c` that a head uses.
    fn group_columns(&self, head: usize) -> std::ops::Range<usize> {
        let (group, n) = (head / (self.heads() / self.groups), self.state_len());
        group * n..(group + 1) * n
    }
}
