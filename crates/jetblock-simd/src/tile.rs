//! Disjoint rectangles of one row-major matrix, so that threads can each own a block of columns.

use std::marker::PhantomData;
use std::ops::Range;

/// A rectangle of a row-major matrix, exclusively borrowed.
#[derive(Debug)]
pub struct TileMut<'a, T> {
    base: *mut T,
    row_stride: usize,
    rows: usize,
    cols: usize,
    borrow: PhantomData<&'a mut [T]>,
}

// SAFETY: a tile is an exclusive borrow of its elements, like `&mut [T]`.
unsafe impl<T: Send> Send for TileMut<'_, T> {}

impl<T> TileMut<'_, T> {
    /// Rows in the tile.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns in the tile.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// One row of the tile.
    #[inline(always)]
    pub fn row_mut(&mut self, row: usize) -> &mut [T] {
        assert!(
            row < self.rows,
            "row {row} of a tile with {} rows",
            self.rows
        );
        // SAFETY: `tiles` made the tile inside one matrix, disjoint from every other tile; the row is in range
        // (asserted), and the borrow of `self` keeps a second reference to it from being made.
        unsafe { std::slice::from_raw_parts_mut(self.base.add(row * self.row_stride), self.cols) }
    }
}

/// Cuts a row-major matrix into the tiles `rows[i] x cols[j]`, i-major.
///
/// # Panics
/// If the ranges are not ascending, overlap, or leave the matrix.
pub fn tiles<'a, T>(
    matrix: &'a mut [T],
    row_len: usize,
    rows: &[Range<usize>],
    cols: &[Range<usize>],
) -> Vec<TileMut<'a, T>> {
    let height = matrix.len().checked_div(row_len).unwrap_or(0);
    check_ascending("row", rows, height);
    check_ascending("column", cols, row_len);
    let base = matrix.as_mut_ptr();
    let mut out = Vec::with_capacity(rows.len() * cols.len());
    for r in rows {
        for c in cols {
            out.push(TileMut {
                // `wrapping_add`: an empty tile may start one row past the end.
                base: base.wrapping_add(r.start * row_len + c.start),
                row_stride: row_len,
                rows: r.len(),
                cols: c.len(),
                borrow: PhantomData,
            });
        }
    }
    out
}

fn check_ascending(what: &str, ranges: &[Range<usize>], end: usize) {
    let mut at = 0;
    for r in ranges {
        assert!(
            at <= r.start && r.start <= r.end && r.end <= end,
            "{what} range {r:?} is out of order or past {end}"
        );
        at = r.end;
    }
}

/// Consecutive ranges of `step` that cover `0..len`; the last may be short.
pub fn steps(len: usize, step: usize) -> Vec<Range<usize>> {
    assert!(step > 0, "a step of zero covers nothing");
    (0..len)
        .step_by(step)
        .map(|at| at..len.min(at + step))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_their_rectangles() {
        let mut m: Vec<u32> = vec![0; 5 * 7];
        for (i, mut tile) in tiles(&mut m, 7, &[0..2, 3..5], &steps(7, 3))
            .into_iter()
            .enumerate()
        {
            for r in 0..tile.rows() {
                tile.row_mut(r).fill(i as u32 + 1);
            }
        }
        assert_eq!(m[..7], [1, 1, 1, 2, 2, 2, 3]);
        assert_eq!(m[14..21], [0; 7]);
        assert_eq!(m[28..], [4, 4, 4, 5, 5, 5, 6]);
    }

    #[test]
    #[should_panic(expected = "out of order")]
    fn overlapping_tiles_are_refused() {
        tiles(&mut [0_u8; 4], 2, &[0..2, 1..2], &steps(2, 2));
    }
}
