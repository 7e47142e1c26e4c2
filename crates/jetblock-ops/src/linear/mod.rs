//! `y[m, n] = dot(x[m, :], W[n, :]) (+ bias[n])`: linear layers of both operand kinds.
//!
//! The order of every sum is NUMERICS.md section 3. A chain of fused steps runs from +0 over each block of 256
//! consecutive k; block results are added, ascending, to a total that starts at +0; then the bias, then the epilogue.
//! One output depends on one row of `x` and one row of `W`: how many rows a call has, which rows stand beside it,
//! threads and tiles decide who computes it and when.
//!
//! | tensor | shape | dtype |
//! |---|---|---|
//! | `x` | `[M, K]` | f32, brought to the kind's operands by [`Prepared`] |
//! | `W` | `[N, K]` | f32, bf16, f16 or codes ([`quantized`]), packed once by [`PackedMatrix`] |
//! | `bias` | `[N]` | f32 |
//! | `y` | `[M, N]` | f32 |
//!
//! Rounding points: operands to bf16 in the [`OperandKind::Bf16`] kind; each step of a chain; each block sum; the
//! bias; with [`Epilogue::Relu2`] the square.

mod cpu;
pub(crate) mod gathered;
mod pack;
mod prepare;
pub mod quantized;
pub mod reference;
pub mod view;

#[cfg(test)]
mod tests;

use std::ops::Range;

use jetblock_simd::{Cpu, fp_env};

use crate::OpError;

pub(crate) use pack::PanelRow;
pub use pack::{PANEL, PackedMatrix, WeightRows};
pub use prepare::Prepared;

const OP: &str = "linear";

/// How operands enter a dot product. Part of the request: no schedule chooses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OperandKind {
    /// Both sides rounded to bf16, magnitudes below 2^-50 replaced by +0.
    Bf16,
    /// Both sides f32; weights of two bytes are widened exactly.
    F32,
}

impl OperandKind {
    /// The name in reports and options.
    pub fn name(self) -> &'static str {
        match self {
            OperandKind::Bf16 => "bf16",
            OperandKind::F32 => "f32",
        }
    }
}

/// What happens to an output after its dot product and bias.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Epilogue {
    /// Nothing.
    #[default]
    None,
    /// `r * r` with `r = max(y, +0)`.
    Relu2,
}

/// The rows of `x` that a job reads, in the order of its output rows.
#[derive(Clone, Debug)]
pub enum Rows<'a> {
    /// Consecutive rows.
    Range(Range<usize>),
    /// Any rows, repetition allowed: an expert's tokens.
    List(&'a [u32]),
}

impl Rows<'_> {
    /// Number of rows.
    pub fn len(&self) -> usize {
        match self {
            Rows::Range(range) => range.len(),
            Rows::List(list) => list.len(),
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The row of `x` that output row `i` reads.
    #[inline(always)]
    pub fn at(&self, i: usize) -> usize {
        match self {
            Rows::Range(range) => range.start + i,
            Rows::List(list) => list[i] as usize,
        }
    }

    /// The first row that `x` does not have.
    fn out_of_range(&self, rows: usize) -> Option<usize> {
        match self {
            Rows::Range(range) => (!range.is_empty() && range.end > rows).then(|| range.end - 1),
            Rows::List(list) => list
                .iter()
                .map(|&row| row as usize)
                .find(|&row| row >= rows),
        }
    }
}

/// Arguments of [`linear`].
#[derive(Clone, Copy, Debug)]
pub struct Linear<'a> {
    /// `[M, K]`.
    pub x: &'a Prepared,
    /// `[N, K]`.
    pub weight: &'a PackedMatrix,
    /// `[N]`.
    pub bias: Option<&'a [f32]>,
    /// Applied to every output.
    pub epilogue: Epilogue,
}

/// One product of [`grouped_linear`].
#[derive(Debug)]
pub struct LinearJob<'a> {
    /// `[rows of x, K]`.
    pub x: &'a Prepared,
    /// The M rows of `x` to use.
    pub rows: Rows<'a>,
    /// `[N, K]`.
    pub weight: &'a PackedMatrix,
    /// `[N]`.
    pub bias: Option<&'a [f32]>,
    /// Applied to every output.
    pub epilogue: Epilogue,
    /// `[M, N]`.
    pub out: &'a mut [f32],
}

impl LinearJob<'_> {
    fn check(&self) -> Result<(), OpError> {
        let (x, weight) = (self.x, self.weight);
        if x.kind() != weight.kind() {
            let (expected, got) = (
                format!("{:?} as in the weight", weight.kind()),
                format!("{:?}", x.kind()),
            );
            return Err(OpError::Value {
                op: OP,
                arg: "operand kind of x",
                expected,
                got,
            });
        }
        OpError::check_len(OP, "row of x [K]", x.k(), weight.k())?;
        if let Some(row) = self.rows.out_of_range(x.rows()) {
            let expected = format!("below {}, the rows of x", x.rows());
            return Err(OpError::Value {
                op: OP,
                arg: "row index",
                expected,
                got: row.to_string(),
            });
        }
        if let Some(bias) = self.bias {
            OpError::check_len(OP, "bias [N]", bias.len(), weight.n())?;
        }
        OpError::check_len(
            OP,
            "out [M, N]",
            self.out.len(),
            self.rows.len().saturating_mul(weight.n()),
        )
    }
}

/// `out [M, N] = x [M, K] · weightᵀ` with bias and epilogue.
pub fn linear(cpu: &Cpu, args: Linear<'_>, out: &mut [f32]) -> Result<(), OpError> {
    let Linear {
        x,
        weight,
        bias,
        epilogue,
    } = args;
    grouped_linear(
        cpu,
        vec![LinearJob {
            x,
            rows: Rows::Range(0..x.rows()),
            weight,
            bias,
            epilogue,
            out,
        }],
    )
}

/// Several products at once: experts, or projections of one input. All share the pool, so small ones keep it busy
/// together.
pub fn grouped_linear(cpu: &Cpu, jobs: Vec<LinearJob<'_>>) -> Result<(), OpError> {
    for job in &jobs {
        job.check()?;
    }
    let _guard = fp_env::Guard::new();
    cpu::run(cpu, jobs);
    Ok(())
}
