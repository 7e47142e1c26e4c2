//! swiglu with lanes over elements, threads over runs of elements.

use jetblock_numerics::{Lanes, canonical, math};
use jetblock_simd::{Cpu, Kernel, Simd, fp_env};

use super::SwiGlu;
use crate::OpError;
use crate::row::{load_part, store_part};

/// Elements that are worth a thread's while.
const GRAIN: usize = 8 * 1024;

impl SwiGlu<'_> {
    /// The same bits as [`SwiGlu::reference`], faster.
    pub fn cpu(&self, gate: &mut [f32], cpu: &Cpu) -> Result<(), OpError> {
        self.check(gate)?;
        let _guard = fp_env::Guard::new();
        cpu.par_rows(gate, 1, GRAIN, |first, gate| {
            let up = &self.up[first..][..gate.len()];
            cpu.run(Run { gate, up });
        });
        Ok(())
    }
}

struct Run<'a> {
    gate: &'a mut [f32],
    up: &'a [f32],
}

impl Kernel for Run<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for (y, up) in self.gate.chunks_mut(S::LANES).zip(self.up.chunks(S::LANES)) {
            let gated = math::silu(load_part(simd, y)).mul(load_part(simd, up));
            store_part(simd, canonical(gated), y);
        }
    }
}
