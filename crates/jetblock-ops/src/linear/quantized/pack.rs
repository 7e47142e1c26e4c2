//! From rows of codes to panels.

use jetblock_simd::HugeVec;

use super::super::pack::{PANEL, PackedMatrix, PanelRow, Panels};
use super::panels::{QuantizedPanels, Scales, is_poisoned};
use super::{Codes, Format, OP, QuantizedRow, QuantizedRows};
use crate::OpError;
use crate::linear::OperandKind;

impl PackedMatrix {
    /// Packs quantized parts of one format that stack along N.
    ///
    /// After each panel, `on_rows_done(part, rows)` says that the first `rows` rows of that part will not be read
    /// again.
    pub fn pack_quantized(
        kind: OperandKind,
        format: Format,
        parts: &[QuantizedRows<'_>],
        k: usize,
        on_rows_done: &mut dyn FnMut(usize, usize),
    ) -> Result<PackedMatrix, OpError> {
        format.check(k)?;
        if format
            .blocks
            .is_some_and(|b| b.offset == Some(super::ScaleType::E4m3))
        {
            return Err(OpError::Value {
                op: OP,
                arg: "offset type",
                expected: "F32 or F16".into(),
                got: "E4m3".into(),
            });
        }
        let n = parts.iter().map(|part| part.rows).sum::<usize>();
        let mut packer = Packer::new(format, n, k);
        for (index, part) in parts.iter().enumerate() {
            for row in 0..part.rows {
                packer.push(part, row);
                if packer.next.is_multiple_of(PANEL) || row + 1 == part.rows {
                    on_rows_done(index, row + 1);
                }
            }
        }
        let panels = Panels::Quantized(packer.panels);
        Ok(PackedMatrix::from_panels(kind, n, k, panels))
    }
}

struct Packer {
    k: usize,
    /// The output that comes next.
    next: usize,
    /// Codes of a row, padded to whole words with the code of +0.
    row: Vec<u8>,
    scales: Vec<u8>,
    offsets: Vec<u8>,
    panels: QuantizedPanels,
}

impl Packer {
    fn new(format: Format, n: usize, k: usize) -> Packer {
        let count = n.div_ceil(PANEL);
        let words = k.div_ceil(format.codes.per_word());
        let blocks = format.blocks_in(k);
        let size = |kind: Option<super::ScaleType>| kind.map_or(0, |kind| kind.size() * blocks);
        let (scale, offset) = (
            format.blocks.map(|b| b.scale),
            format.blocks.and_then(|b| b.offset),
        );
        let mut codes = HugeVec::with_capacity(count * words);
        codes.extend_with(count * words, PanelRow([0; PANEL]));
        let zero = match format.codes {
            Codes::U4Less8 => 8,
            _ => 0,
        };
        Packer {
            k,
            next: 0,
            row: vec![zero; words * format.codes.per_word()],
            scales: vec![0; size(scale)],
            offsets: vec![0; size(offset)],
            panels: QuantizedPanels {
                format,
                codes,
                scales: Scales::zeros(scale, count * blocks),
                offsets: Scales::zeros(offset, count * blocks),
                factors: vec![1.0; count * PANEL],
            },
        }
    }

    fn push(&mut self, part: &QuantizedRows<'_>, row: usize) {
        let Packer {
            k,
            scales,
            offsets,
            panels,
            ..
        } = self;
        (part.read)(
            row,
            QuantizedRow {
                codes: &mut self.row[..*k],
                scales,
                offsets,
            },
        );
        let (panel, column) = (self.next / PANEL, self.next % PANEL);
        let codes = panels.format.codes;
        let words = self.row.len() / codes.per_word();
        let rows = &mut panels.codes[panel * words..][..words];
        match codes.bits() {
            4 => {
                for (row, c) in rows.iter_mut().zip(self.row.as_chunks::<8>().0) {
                    row.0[column] = word_of_nibbles(c);
                }
            }
            _ => {
                for (row, c) in rows.iter_mut().zip(self.row.as_chunks::<4>().0) {
                    row.0[column] = u32::from_le_bytes([c[0], c[2], c[1], c[3]]);
                }
            }
        }
        let first = panel * panels.format.blocks_in(*k);
        panels.scales.fill(first, column, scales);
        panels.offsets.fill(first, column, offsets);
        panels.factors[self.next] = if is_poisoned(panels.format, &self.row[..*k], scales) {
            f32::NAN
        } else {
            part.factor
        };
        self.next += 1;
    }
}

/// Codes of eight k: nibbles of the even ones in the low half, of the odd ones in the high half.
#[inline(always)]
fn word_of_nibbles(codes: &[u8; 8]) -> u32 {
    let mut word = 0;
    for (i, &code) in codes.iter().enumerate() {
        word |= u32::from(code & 15) << (i / 2 * 4 + i % 2 * 16);
    }
    word
}
