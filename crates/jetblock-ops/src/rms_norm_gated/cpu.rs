//! The gated norm with lanes over the elements of a row, threads over rows.

use jetblock_numerics::{Lanes, math::silu};
use jetblock_simd::{Cpu, Kernel, Simd, fp_env};

use super::RmsNormGated;
use crate::OpError;
use crate::rms_norm::normalize_in_place;
use crate::row::{load_part, store_part};

/// Elements that are worth a thread's while.
const GRAIN: usize = 4 * 1024;

impl RmsNormGated<'_> {
    /// The same bits as [`RmsNormGated::reference`], faster.
    pub fn cpu(&self, out: &mut [f32], cpu: &Cpu) -> Result<(), OpError> {
        self.check_out(out)?;
        let _guard = fp_env::Guard::new();
        // A group is a unit of its own, so one decoded row still occupies every thread.
        let width = self.width();
        cpu.par_rows(out, width, GRAIN.div_ceil(width), |first, out| {
            cpu.run(Groups {
                op: self,
                first,
                out,
            })
        });
        Ok(())
    }
}

/// Consecutive groups; `first` counts groups over all rows.
struct Groups<'a> {
    op: &'a RmsNormGated<'a>,
    first: usize,
    out: &'a mut [f32],
}

impl Kernel for Groups<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let op = self.op;
        let width = op.width();
        for (i, out) in self.out.chunks_exact_mut(width).enumerate() {
            let (row, column) = (
                (self.first + i) / op.groups,
                (self.first + i) % op.groups * width,
            );
            let y = &op.y[row * op.weight.len() + column..][..width];
            let z = &op.z.row(row)[column..][..width];
            gate(simd, y, z, out);
            normalize_in_place(simd, out, &op.weight[column..][..width], op.eps);
        }
    }
}

/// `out = y * silu(z)`.
#[inline(always)]
fn gate<S: Simd>(simd: S, y: &[f32], z: &[f32], out: &mut [f32]) {
    for ((y, z), out) in y
        .chunks(S::LANES)
        .zip(z.chunks(S::LANES))
        .zip(out.chunks_mut(S::LANES))
    {
        store_part(simd, load_part(simd, y).mul(silu(load_part(simd, z))), out);
    }
}
