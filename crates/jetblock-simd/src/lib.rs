//! Virtual-lane vectors, run-time instruction-set dispatch, floating-point environment guard, thread pool.
//!
//! A kernel is written once, generic over [`Simd`], and handed to [`Level::run`], which instantiates it under the
//! target features of one instruction set (the shape of the `pulp` crate). SIMD lanes always run over *outputs*
//! and never mix, so every level gives the same bits by construction.
//!
//! This crate is the home of `unsafe` for vector code: the tokens implementing [`Simd`] can only be made inside
//! [`Level::run`], which has checked the processor, and that is what makes their methods safe to call.
#![allow(
    unsafe_code,
    reason = "the home of vector intrinsics, control registers and target-feature calls"
)]

mod cpu;
pub mod fp_env;
mod level;
mod memory;
mod scalar;
mod simd;
mod tile;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;

pub use cpu::{Cpu, CpuError};
pub use level::{Kernel, Level};
pub use memory::HugeVec;
pub use simd::Simd;
pub use tile::{TileMut, steps, tiles};
