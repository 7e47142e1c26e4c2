//! A range of columns of a row-major matrix: how one part of a projection's output is read without copying it.

use std::ops::Range;

use crate::OpError;

/// Columns `columns` of a row-major matrix with rows of `row_len`.
///
/// The Mamba-2 in_proj writes rows `[z | xBC | dt_raw]`; the gate, the convolution and the scan each read one range.
#[derive(Clone, Debug)]
pub struct Columns<'a> {
    /// The whole matrix, `[R, row_len]`.
    pub data: &'a [f32],
    /// Length of a row of the matrix: the distance between rows.
    pub row_len: usize,
    /// The columns.
    pub columns: Range<usize>,
}

impl<'a> Columns<'a> {
    /// All columns.
    pub fn whole(data: &'a [f32], row_len: usize) -> Columns<'a> {
        Columns {
            data,
            row_len,
            columns: 0..row_len,
        }
    }

    /// All columns of some rows.
    #[cfg(test)]
    pub(crate) fn rows(data: &'a [f32], row_len: usize, rows: &Range<usize>) -> Columns<'a> {
        Columns::whole(&data[rows.start * row_len..rows.end * row_len], row_len)
    }

    /// Number of columns in the range.
    pub fn width(&self) -> usize {
        self.columns.len()
    }

    /// The range's part of one row.
    #[inline(always)]
    pub fn row(&self, row: usize) -> &'a [f32] {
        let start = row * self.row_len;
        &self.data[start + self.columns.start..start + self.columns.end]
    }

    /// `Ok` where the matrix has `rows` rows and the range has `width` columns.
    pub(crate) fn check(
        &self,
        op: &'static str,
        arg: &'static str,
        rows: usize,
        width: usize,
    ) -> Result<(), OpError> {
        let Range { start, end } = self.columns;
        let value = |expected: String, got: String| {
            Err(OpError::Value {
                op,
                arg,
                expected,
                got,
            })
        };
        if start > end || end > self.row_len {
            return value(
                format!("a column range inside 0..{}", self.row_len),
                format!("columns {start}..{end}"),
            );
        }
        if end - start != width {
            return value(
                format!("{width} columns"),
                format!("{} columns", end - start),
            );
        }
        OpError::check_len(op, arg, self.data.len(), rows * self.row_len)
    }
}
