//! Development only: painted inputs, bit comparisons, test cases shared by every op.
//!
//! ```
//! use jetblock_testing::{Guarded, assert_bits_equal, for_every_cpu, painted};
//!
//! let x = painted(1, 1025);
//! let want: Vec<f32> = x.iter().map(|x| x * 2.0).collect();
//! for_every_cpu(|cpu| {
//!     let mut out = Guarded::new(x.len());
//!     cpu.par_rows(&mut out, 1, 16, |first, rows| {
//!         rows.iter_mut().zip(&x[first..]).for_each(|(y, x)| *y = x * 2.0);
//!     });
//!     assert_bits_equal("doubling", &out, &want);
//!     out.assert_intact();
//! });
//! ```
#![forbid(unsafe_code)]

mod bits;
mod cases;
mod guarded;
mod npy;

pub use bits::{Bits, Difference, assert_bits_differ, assert_bits_equal, first_difference};
pub use cases::{
    AWKWARD_LENGTHS, SPECIAL_VALUES, cpus, for_every_cpu, painted, painted_raw, painted_special,
    painted_wide,
};
pub use guarded::Guarded;
pub use npy::{Npy, read_npy_f32, read_npy_i64};
