//! The numeric contract: rounding, reductions, elementary functions, random numbers.
//!
//! Which bits a JetBlock operator returns is decided here and written down in NUMERICS.md; every other crate only
//! arranges these definitions for speed. The definitions use binary32 `+ - * / sqrt fma` and integers alone (a few
//! host-side functions use binary64 `+ - * /`), so every machine and language can reproduce them.
//!
//! | question | module |
//! |---|---|
//! | one rounding of `a * b + c` | [`mod@fma`] |
//! | the operations that functions are written in, scalar and SIMD | [`lanes`] |
//! | conversions between dtypes, canonical NaN, max and min | [`round`] |
//! | the 8-bit and 4-bit floats, and NVFP4 blocks of them | [`e4m3`], [`e2m1`], [`nvfp4`] |
//! | order of sums, dot products, maxima, prefix sums | [`reduce`] |
//! | exp, log, tanh, gelu, sin, pow, ... | [`math`] |
//! | random numbers | [`rng`] |
//! | test inputs given by a formula | [`paint`] |

#![forbid(unsafe_code)]

pub mod e2m1;
pub mod e4m3;
pub mod fma;
pub mod lanes;
pub mod math;
pub mod nvfp4;
pub mod paint;
pub mod reduce;
pub mod rng;
pub mod round;

pub use fma::{fma, fma_soft};
pub use lanes::Lanes;
pub use round::{canonical, max, min};

/// Bumped by any change of any output bit. Golden vectors of version N are in `golden/v<N>/`.
pub const NUMERICS_VERSION: u32 = 1;
