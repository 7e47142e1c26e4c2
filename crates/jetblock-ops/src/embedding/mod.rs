//! `h[r] = f32(table[id_r])`: token embeddings.
//!
//! NUMERICS.md section 10.
//!
//! | name  | shape    | dtype |
//! |-------|----------|-------|
//! | ids   | `[R]`    | u32   |
//! | table | `[V, D]` | f32, bf16 or f16, as in the checkpoint or packed |
//! | h     | `[R, D]` | f32   |
//!
//! Rounding points: none; every dtype widens exactly, and a NaN becomes canonical.

mod cpu;
mod reference;
#[cfg(test)]
mod tests;

use crate::OpError;
use crate::linear::{PackedMatrix, WeightRows};

/// Where the rows come from.
#[derive(Clone, Copy, Debug)]
pub enum Table<'a> {
    /// Little-endian rows of a checkpoint, mapped or owned.
    Rows {
        /// `[V, D]`.
        rows: WeightRows<'a>,
        /// D.
        hidden_size: usize,
    },
    /// The packed matrix of a tied output layer.
    ///
    /// In the bf16 kind it holds operands, so the row reads as `operand(table[id])`: entries below 2^-50 in magnitude,
    /// and -0, read as +0. NUMERICS.md section 10 makes that the meaning of tied embeddings.
    Packed(&'a PackedMatrix),
}

/// Arguments of embedding.
#[derive(Clone, Copy, Debug)]
pub struct Embedding<'a> {
    /// Token ids `[R]`.
    pub ids: &'a [u32],
    /// Rows by id.
    pub table: Table<'a>,
}

impl Table<'_> {
    /// Rows.
    pub fn vocab_size(&self) -> usize {
        match self {
            Table::Rows { rows, .. } => rows.rows,
            Table::Packed(matrix) => matrix.n(),
        }
    }

    /// Elements of a row.
    pub fn hidden_size(&self) -> usize {
        match self {
            Table::Rows { hidden_size, .. } => *hidden_size,
            Table::Packed(matrix) => matrix.k(),
        }
    }
}

impl Embedding<'_> {
    const NAME: &'static str = "embedding";

    /// Whether every id has a row and `out` has the shape of the result.
    pub fn check(&self, out: &[f32]) -> Result<(), OpError> {
        let (vocab, width) = (self.table.vocab_size(), self.table.hidden_size());
        let value = |arg, expected, got| {
            Err(OpError::Value {
                op: Self::NAME,
                arg,
                expected,
                got,
            })
        };
        if width == 0 {
            return value("hidden_size", "at least 1".into(), "0".into());
        }
        if let Table::Rows { rows, .. } = &self.table {
            let bytes = vocab.saturating_mul(width.saturating_mul(rows.dtype.size()));
            OpError::check_len(Self::NAME, "bytes of table [V, D]", rows.bytes.len(), bytes)?;
        }
        if let Some(id) = self.ids.iter().find(|&&id| id as usize >= vocab) {
            return value(
                "token id",
                format!("below the vocabulary size {vocab}"),
                id.to_string(),
            );
        }
        OpError::check_len(Self::NAME, "h [R, D]", out.len(), self.ids.len() * width)
    }
}
