//! The meaning of randn: each element by itself.

use jetblock_numerics::rng::normal_pair;

use super::Randn;
use crate::OpError;

impl Randn<'_> {
    /// The definition.
    pub fn reference(&self, out: &mut [f32]) -> Result<(), OpError> {
        self.check(out)?;
        let width = self.size[3];
        for (index, y) in out.iter_mut().enumerate() {
            let (row, x) = (self.row(index / width), index % width);
            let [a, b, c, d] = row.words(x / 4);
            let pair = if x % 4 < 2 {
                normal_pair(a, b)
            } else {
                normal_pair(c, d)
            };
            *y = pair[x % 2];
        }
        Ok(())
    }
}
