//! randn with threads over rows; the words of a block are drawn once and serve its four elements.

use jetblock_numerics::rng::normal_pair;
use jetblock_simd::{Cpu, fp_env};

use super::Randn;
use crate::OpError;

/// Elements worth a thread's while.
const GRAIN: usize = 1 << 11;

impl Randn<'_> {
    /// The same bits as [`Randn::reference`], faster.
    pub fn cpu(&self, out: &mut [f32], cpu: &Cpu) -> Result<(), OpError> {
        self.check(out)?;
        let width = self.size[3];
        if out.is_empty() {
            return Ok(());
        }
        let _guard = fp_env::Guard::new();
        cpu.par_rows(out, width, GRAIN.div_ceil(width), |first, out| {
            for (index, out) in out.chunks_exact_mut(width).enumerate() {
                let row = self.row(first + index);
                for (block, out) in out.chunks_mut(4).enumerate() {
                    let [a, b, c, d] = row.words(block);
                    let variates = [normal_pair(a, b), normal_pair(c, d)];
                    out.copy_from_slice(&variates.as_flattened()[..out.len()]);
                }
            }
        });
        Ok(())
    }
}
