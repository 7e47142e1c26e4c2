//! Weights in the order in which kernels read them.
//!
//! A panel holds 64 outputs. Its rows run along k, so a kernel reads one panel from front to back and finds the
//! operands of 64 neighbouring outputs side by side: one vector lane per output.

use jetblock_numerics::round;
use jetblock_simd::HugeVec;
use jetblock_tensor::DType;

use super::quantized::{Format, QuantizedPanels};
use super::{OP, OperandKind};
use crate::OpError;

/// Outputs in a panel.
pub const PANEL: usize = 64;

/// Steps along k that are packed for all columns of a panel before going on, so that a cache line of the panel is
/// completed while it is near.
const PACK_STEPS: usize = 64;

/// Operands of one step along k for all outputs of a panel.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
pub struct PanelRow<T>(pub(super) [T; PANEL]);

/// Panels one after another.
#[derive(Debug)]
pub(super) enum Panels {
    /// Operands of the bf16 kind: the pair (2i, 2i + 1) per step, the even one in the low half.
    Pairs(HugeVec<PanelRow<u32>>),
    F32(HugeVec<PanelRow<f32>>),
    Bf16(HugeVec<PanelRow<u16>>),
    F16(HugeVec<PanelRow<u16>>),
    /// Either kind, codes as stored.
    Quantized(QuantizedPanels),
}

/// Rows of a weight matrix as they lie in a checkpoint file: little-endian, row-major, at any alignment.
#[derive(Clone, Copy, Debug)]
pub struct WeightRows<'a> {
    /// Element type.
    pub dtype: DType,
    /// Number of rows.
    pub rows: usize,
    /// `rows * k * dtype.size()` bytes.
    pub bytes: &'a [u8],
}

/// A weight matrix `[N, K]`, packed for one operand kind.
///
/// The f32 kind keeps the source's dtype, so weights of two bytes stay two bytes; parts of different dtypes are
/// widened to f32.
#[derive(Debug)]
pub struct PackedMatrix {
    kind: OperandKind,
    n: usize,
    k: usize,
    panels: Panels,
}

impl PackedMatrix {
    /// Packs parts that stack along N (for example q, k and v).
    ///
    /// After each panel, `on_rows_done(part, rows)` says that the first `rows` rows of that part will not be read
    /// again: a loader can let go of their file pages.
    pub fn pack(
        kind: OperandKind,
        parts: &[WeightRows<'_>],
        k: usize,
        on_rows_done: &mut dyn FnMut(usize, usize),
    ) -> Result<PackedMatrix, OpError> {
        if k == 0 {
            return Err(OpError::Value {
                op: OP,
                arg: "K",
                expected: "at least 1".into(),
                got: "0".into(),
            });
        }
        for part in parts {
            let bytes = part
                .rows
                .saturating_mul(k.saturating_mul(part.dtype.size()));
            OpError::check_len(OP, "bytes of weight [N, K]", part.bytes.len(), bytes)?;
        }
        let n: usize = parts.iter().map(|part| part.rows).sum();
        let same = |dtype| parts.iter().all(|part| part.dtype == dtype);
        let source = Source {
            parts,
            k,
            panels: n.div_ceil(PANEL),
        };
        let panels = match kind {
            OperandKind::Bf16 => Panels::Pairs(source.pack(
                2,
                on_rows_done,
                |dtype, rows, column, bytes| match dtype {
                    DType::F32 => fill(rows, column, bytes.chunks(8), |b| {
                        pair(b, 4, |b| round::bf16_operand(f32_of(b)))
                    }),
                    DType::BF16 => fill(rows, column, bytes.chunks(4), |b| {
                        pair(b, 2, |b| operand_of_bf16(code_of(b)))
                    }),
                    DType::F16 => fill(rows, column, bytes.chunks(4), |b| {
                        pair(b, 2, |b| round::bf16_operand(round::f16_to_f32(code_of(b))))
                    }),
                },
            )),
            OperandKind::F32 if same(DType::BF16) => {
                Panels::Bf16(source.pack(1, on_rows_done, |_, rows, column, bytes| {
                    fill(rows, column, bytes.chunks(2), code_of)
                }))
            }
            OperandKind::F32 if same(DType::F16) => {
                Panels::F16(source.pack(1, on_rows_done, |_, rows, column, bytes| {
                    fill(rows, column, bytes.chunks(2), code_of)
                }))
            }
            OperandKind::F32 => Panels::F32(source.pack(
                1,
                on_rows_done,
                |dtype, rows, column, bytes| match dtype {
                    DType::F32 => fill(rows, column, bytes.chunks(4), f32_of),
                    DType::BF16 => fill(rows, column, bytes.chunks(2), |b| {
                        round::bf16_widen(code_of(b))
                    }),
                    DType::F16 => fill(rows, column, bytes.chunks(2), |b| {
                        round::f16_to_f32(code_of(b))
                    }),
                },
            )),
        };
        Ok(PackedMatrix { kind, n, k, panels })
    }

    pub(super) fn from_panels(
        kind: OperandKind,
        n: usize,
        k: usize,
        panels: Panels,
    ) -> PackedMatrix {
        PackedMatrix { kind, n, k, panels }
    }

    /// How weights are stored, where they are quantized.
    pub fn format(&self) -> Option<Format> {
        match &self.panels {
            Panels::Quantized(panels) => Some(panels.format()),
            _ => None,
        }
    }

    /// Outputs.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Inputs.
    pub fn k(&self) -> usize {
        self.k
    }

    /// The operand kind it was packed for.
    pub fn kind(&self) -> OperandKind {
        self.kind
    }

    /// Memory in bytes, padding included.
    pub fn bytes(&self) -> usize {
        match &self.panels {
            Panels::Pairs(rows) => size_of_val(&rows[..]),
            Panels::F32(rows) => size_of_val(&rows[..]),
            Panels::Bf16(rows) | Panels::F16(rows) => size_of_val(&rows[..]),
            Panels::Quantized(panels) => panels.bytes(),
        }
    }

    /// Row `n` as stored, widened.
    ///
    /// In the bf16 kind these are operands: a value of the checkpoint with magnitude below 2^-50, or -0, reads +0. A
    /// quantized row reads `rn(fma(scale, code, offset) * factor)` in both kinds.
    pub fn row_into(&self, n: usize, out: &mut [f32]) -> Result<(), OpError> {
        if n >= self.n {
            let expected = format!("below {}", self.n);
            return Err(OpError::Value {
                op: "row_into",
                arg: "row",
                expected,
                got: n.to_string(),
            });
        }
        OpError::check_len("row_into", "out [K]", out.len(), self.k)?;
        let (panel, column) = (n / PANEL, n % PANEL);
        match &self.panels {
            Panels::Pairs(rows) => {
                let steps = self.k.div_ceil(2);
                for (out, row) in out.chunks_mut(2).zip(&rows[panel * steps..]) {
                    let pair = row.0[column];
                    out[0] = f32::from_bits(pair << 16);
                    if let Some(odd) = out.get_mut(1) {
                        *odd = f32::from_bits(pair & 0xFFFF_0000);
                    }
                }
            }
            Panels::F32(rows) => read_column(&rows[panel * self.k..], column, out, |v| v),
            Panels::Bf16(rows) => {
                read_column(&rows[panel * self.k..], column, out, round::bf16_widen)
            }
            Panels::F16(rows) => {
                read_column(&rows[panel * self.k..], column, out, round::f16_to_f32)
            }
            Panels::Quantized(panels) => panels.row_into(n, self.k, out),
        }
        Ok(())
    }

    pub(super) fn panels(&self) -> &Panels {
        &self.panels
    }
}

fn read_column<T: Copy>(
    rows: &[PanelRow<T>],
    column: usize,
    out: &mut [f32],
    widen: impl Fn(T) -> f32,
) {
    for (out, row) in out.iter_mut().zip(rows) {
        *out = widen(row.0[column]);
    }
}

struct Source<'a> {
    parts: &'a [WeightRows<'a>],
    k: usize,
    panels: usize,
}

impl Source<'_> {
    /// Builds panels of `k_step` elements of k per step; `fill(dtype, rows, column, bytes)` writes one run of a column.
    fn pack<T: Copy + Default>(
        &self,
        k_step: usize,
        on_rows_done: &mut dyn FnMut(usize, usize),
        fill: impl Fn(DType, &mut [PanelRow<T>], usize, &[u8]),
    ) -> HugeVec<PanelRow<T>> {
        let steps = self.k.div_ceil(k_step);
        let mut rows = HugeVec::with_capacity(self.panels * steps);
        let mut cursor = Cursor { part: 0, row: 0 };
        for _ in 0..self.panels {
            let start = rows.len();
            rows.extend_with(steps, PanelRow([T::default(); PANEL]));
            let panel = &mut rows[start..];
            let (columns, next) = self.columns(cursor);
            for first in (0..steps).step_by(PACK_STEPS) {
                let run = first..steps.min(first + PACK_STEPS);
                for (column, &(dtype, bytes)) in columns.iter().enumerate() {
                    let step_bytes = k_step * dtype.size();
                    let bytes =
                        &bytes[run.start * step_bytes..bytes.len().min(run.end * step_bytes)];
                    fill(dtype, &mut panel[run.clone()], column, bytes);
                }
            }
            for part in cursor.part..self.parts.len().min(next.part + 1) {
                let done = if part < next.part {
                    self.parts[part].rows
                } else {
                    next.row
                };
                if done > 0 {
                    on_rows_done(part, done);
                }
            }
            cursor = next;
        }
        rows
    }

    /// The source rows of one panel, and where the next panel starts.
    fn columns(&self, mut at: Cursor) -> (Vec<(DType, &[u8])>, Cursor) {
        let mut columns = Vec::with_capacity(PANEL);
        while columns.len() < PANEL && at.part < self.parts.len() {
            let part = &self.parts[at.part];
            if at.row == part.rows {
                at = Cursor {
                    part: at.part + 1,
                    row: 0,
                };
                continue;
            }
            let row_bytes = self.k * part.dtype.size();
            columns.push((part.dtype, &part.bytes[at.row * row_bytes..][..row_bytes]));
            at.row += 1;
        }
        (columns, at)
    }
}

#[derive(Clone, Copy)]
struct Cursor {
    part: usize,
    row: usize,
}

#[inline(always)]
fn fill<'b, T>(
    rows: &mut [PanelRow<T>],
    column: usize,
    cells: std::slice::Chunks<'b, u8>,
    decode: impl Fn(&'b [u8]) -> T,
) {
    for (row, cell) in rows.iter_mut().zip(cells) {
        row.0[column] = decode(cell);
    }
}

/// Two operands in one word; a missing odd element is +0.
#[inline(always)]
fn pair(bytes: &[u8], size: usize, operand: impl Fn(&[u8]) -> u16) -> u32 {
    let odd = if bytes.len() > size {
        operand(&bytes[size..])
    } else {
        0
    };
    u32::from(operand(&bytes[..size])) | u32::from(odd) << 16
}

#[inline(always)]
fn f32_of(bytes: &[u8]) -> f32 {
    f32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

#[inline(always)]
fn code_of(bytes: &[u8]) -> u16 {
    u16::from_le_bytes([bytes[0], bytes[1]])
}

#[inline(always)]
fn operand_of_bf16(code: u16) -> u16 {
    round::bf16_operand(round::bf16_widen(code))
}
