//! Read access to packed operands, for other kernels over the same memory: the control and benchmarks.

use super::pack::{PANEL, PackedMatrix, PanelRow, Panels};
use super::prepare::Prepared;

/// One panel, step by step along k.
#[derive(Clone, Copy, Debug)]
pub enum PanelView<'a> {
    /// bf16 kind: pairs of operands, two elements of k a step.
    Pairs(&'a [PanelRow<u32>]),
    /// f32 kind, f32 weights.
    F32(&'a [PanelRow<f32>]),
    /// f32 kind, bf16 weights.
    Bf16(&'a [PanelRow<u16>]),
    /// f32 kind, f16 weights.
    F16(&'a [PanelRow<u16>]),
    /// Codes, which only this crate's kernels read.
    Quantized,
}

/// One row of activations.
#[derive(Clone, Copy, Debug)]
pub enum RowView<'a> {
    /// bf16 kind.
    Pairs(&'a [u32]),
    /// f32 kind.
    Values(&'a [f32]),
}

impl<T> PanelRow<T> {
    /// The operands of the panel's outputs.
    pub fn cells(&self) -> &[T; PANEL] {
        &self.0
    }
}

impl PackedMatrix {
    /// The panel of outputs `PANEL * index ..`.
    pub fn panel(&self, index: usize) -> PanelView<'_> {
        let of = |step: usize| {
            let steps = self.k().div_ceil(step);
            index * steps..(index + 1) * steps
        };
        match self.panels() {
            Panels::Pairs(rows) => PanelView::Pairs(&rows[of(2)]),
            Panels::F32(rows) => PanelView::F32(&rows[of(1)]),
            Panels::Bf16(rows) => PanelView::Bf16(&rows[of(1)]),
            Panels::F16(rows) => PanelView::F16(&rows[of(1)]),
            Panels::Quantized(_) => PanelView::Quantized,
        }
    }
}

impl Prepared {
    /// One row.
    pub fn row(&self, row: usize) -> RowView<'_> {
        match self.kind() {
            super::OperandKind::Bf16 => {
                RowView::Pairs(self.pairs().run(row, 0, self.k().div_ceil(2)))
            }
            super::OperandKind::F32 => RowView::Values(self.values().run(row, 0, self.k())),
        }
    }
}
