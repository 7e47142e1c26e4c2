//! Activations as a dot product's operands.

use jetblock_numerics::round;
use jetblock_simd::{Cpu, Kernel, Simd, fp_env};

use super::{OP, OperandKind};
use crate::OpError;

/// Words in a cache line.
const LINE: usize = 16;
/// Elements worth a thread of their own.
const GRAIN: usize = 1 << 15;

/// Rows `[M, K]` brought to an operand kind; the buffer is reused from call to call.
///
/// Rows start an odd number of cache lines apart: rows of a power-of-two length would otherwise compete for the
/// same few cache sets. What lies between is zero, so that a kernel whose weights come in words of several elements may
/// read the rest of the last word.
#[derive(Debug)]
pub struct Prepared {
    kind: OperandKind,
    rows: usize,
    k: usize,
    stride: usize,
    /// bf16 kind: pairs (2i, 2i + 1), the even element in the low half.
    pairs: Vec<u32>,
    /// f32 kind.
    values: Vec<f32>,
}

impl Prepared {
    /// An empty matrix of the kind, to be filled by [`Prepared::prepare_into`].
    pub fn new(kind: OperandKind) -> Prepared {
        Prepared {
            kind,
            rows: 0,
            k: 0,
            stride: LINE,
            pairs: Vec::new(),
            values: Vec::new(),
        }
    }

    /// Rounds `x [rows, k]` to operands.
    pub fn prepare(cpu: &Cpu, kind: OperandKind, x: &[f32], k: usize) -> Result<Prepared, OpError> {
        let mut prepared = Prepared::new(kind);
        prepared.prepare_into(cpu, x, k)?;
        Ok(prepared)
    }

    /// [`Prepared::prepare`] in place of what was here.
    pub fn prepare_into(&mut self, cpu: &Cpu, x: &[f32], k: usize) -> Result<(), OpError> {
        if k == 0 || !x.len().is_multiple_of(k) {
            let expected = "a positive divisor of the elements of x".into();
            return Err(OpError::Value {
                op: OP,
                arg: "K",
                expected,
                got: format!("{k}, with {} elements", x.len()),
            });
        }
        let _guard = fp_env::Guard::new();
        let words = match self.kind {
            OperandKind::Bf16 => k.div_ceil(2),
            OperandKind::F32 => k,
        };
        (self.rows, self.k, self.stride) = (x.len() / k, k, (words.div_ceil(LINE) | 1) * LINE);
        let (stride, len, grain) = (self.stride, self.rows * self.stride, GRAIN.div_ceil(k));
        match self.kind {
            OperandKind::Bf16 => {
                self.pairs.resize(len, 0);
                cpu.par_rows(&mut self.pairs, stride, grain, |first, rows| {
                    cpu.run(ToPairs {
                        x: &x[first * k..],
                        k,
                        rows,
                        stride,
                    });
                });
            }
            OperandKind::F32 => {
                self.values.resize(len, 0.0);
                cpu.par_rows(&mut self.values, stride, grain, |first, rows| {
                    for (row, x) in rows
                        .chunks_exact_mut(stride)
                        .zip(x[first * k..].chunks_exact(k))
                    {
                        row[..k].copy_from_slice(x);
                        row[k..].fill(0.0);
                    }
                });
            }
        }
        Ok(())
    }

    /// The operand kind.
    pub fn kind(&self) -> OperandKind {
        self.kind
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Elements in a row.
    pub fn k(&self) -> usize {
        self.k
    }

    /// Operand pairs (bf16 kind).
    pub(super) fn pairs(&self) -> Operands<'_, u32> {
        Operands {
            words: &self.pairs,
            stride: self.stride,
        }
    }

    /// Values (f32 kind).
    pub(super) fn values(&self) -> Operands<'_, f32> {
        Operands {
            words: &self.values,
            stride: self.stride,
        }
    }
}

/// Rows of operands.
#[derive(Clone, Copy)]
pub(super) struct Operands<'a, X> {
    words: &'a [X],
    stride: usize,
}

impl<'a, X> Operands<'a, X> {
    /// Rows that start `stride` words apart.
    pub(super) fn new(words: &'a [X], stride: usize) -> Operands<'a, X> {
        Operands { words, stride }
    }

    /// Words `start..start + len` of a row; +0 past its end, up to a multiple of 16.
    #[inline(always)]
    pub(super) fn run(self, row: usize, start: usize, len: usize) -> &'a [X] {
        &self.words[row * self.stride + start..][..len]
    }
}

struct ToPairs<'a> {
    x: &'a [f32],
    k: usize,
    rows: &'a mut [u32],
    stride: usize,
}

impl Kernel for ToPairs<'_> {
    type Output = ();

    /// Plain loops: the compiler turns them into vectors of the level's width.
    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) {
        let ToPairs { x, k, rows, stride } = self;
        for (row, x) in rows.chunks_exact_mut(stride).zip(x.chunks_exact(k)) {
            let (even, last) = x.as_chunks::<2>();
            for (pair, &[a, b]) in row.iter_mut().zip(even) {
                let (a, b) = (round::bf16_operand_round(a), round::bf16_operand_round(b));
                *pair = a.to_bits() >> 16 | b.to_bits();
            }
            if let [last] = last {
                row[k / 2] = round::bf16_operand_round(*last).to_bits() >> 16;
            }
            row[k.div_ceil(2)..].fill(0);
        }
    }
}
