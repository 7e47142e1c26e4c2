//! group_norm with lanes over the positions of a channel, threads over the groups of all images.

use jetblock_numerics::{Lanes, canonical};
use jetblock_simd::{Cpu, Kernel, Simd, fp_env};

use super::GroupNorm;
use crate::OpError;
use crate::row::{load_part, moments, store_part};

/// Elements that are worth a thread's while.
const GRAIN: usize = 16 * 1024;

impl GroupNorm<'_> {
    /// The same bits as [`GroupNorm::reference`], faster.
    pub fn cpu(&self, out: &mut [f32], cpu: &Cpu) -> Result<(), OpError> {
        self.check_out(out)?;
        let _guard = fp_env::Guard::new();
        let row_len = self.row_len();
        cpu.par_rows(out, row_len, GRAIN.div_ceil(row_len), |first, out| {
            let x = &self.x[first * row_len..][..out.len()];
            cpu.run(Groups {
                op: GroupNorm { x, ..*self },
                first,
                out,
            });
        });
        Ok(())
    }
}

struct Groups<'a> {
    op: GroupNorm<'a>,
    /// The first group, counted through all images.
    first: usize,
    out: &'a mut [f32],
}

impl Kernel for Groups<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let op = self.op;
        let (row_len, channels) = (op.row_len(), op.channels / op.groups);
        let groups = op.x.chunks(row_len).zip(self.out.chunks_mut(row_len));
        for (i, (x, out)) in groups.enumerate() {
            let (mean, r) = moments(simd, x, op.eps);
            let first = (self.first + i) % op.groups * channels;
            for c in 0..channels {
                let part = c * op.positions..(c + 1) * op.positions;
                let map = Affine {
                    mean,
                    r,
                    weight: op.weight.map(|weight| weight[first + c]),
                    bias: op.bias.map(|bias| bias[first + c]),
                };
                map.run(simd, &x[part.clone()], &mut out[part]);
            }
        }
    }
}

/// What happens to a channel.
struct Affine {
    mean: f32,
    r: f32,
    weight: Option<f32>,
    bias: Option<f32>,
}

impl Affine {
    #[inline(always)]
    fn run<S: Simd>(&self, simd: S, x: &[f32], out: &mut [f32]) {
        let mut at = 0;
        while at < x.len() {
            let part = at..x.len().min(at + S::LANES);
            let d = load_part(simd, &x[part.clone()]).sub(S::F::splat(self.mean));
            let mut y = d.mul(S::F::splat(self.r));
            if let Some(weight) = self.weight {
                y = y.mul(S::F::splat(weight));
            }
            if let Some(bias) = self.bias {
                y = y.add(S::F::splat(bias));
            }
            store_part(simd, canonical(y), &mut out[part]);
            at += S::LANES;
        }
    }
}
