//! The meaning of pooling: every window is a row.

use jetblock_numerics::{canonical, reduce};

use super::{Pool, Reach};
use crate::OpError;

impl Pool<'_> {
    /// The definition.
    pub fn reference(&self, out: &mut [f32]) -> Result<(), OpError> {
        let output = self.check(out)?;
        let reaches = self.reaches(output);
        let from: usize = self.input_size.iter().product();
        let [depth, height, width] = output;
        for (i, y) in out.iter_mut().enumerate() {
            let (w, i) = (i % width, i / width);
            let (h, i) = (i % height, i / height);
            let (d, image) = (i % depth, i / depth);
            let window = [&reaches[0][d], &reaches[1][h], &reaches[2][w]];
            let row = self.row(&self.x[image * from..][..from], window);
            *y = canonical(if self.largest() {
                reduce::max(&row)
            } else {
                reduce::sum(&row) / self.divisor(window)
            });
        }
        Ok(())
    }

    fn row(&self, x: &[f32], window: [&Reach; 3]) -> Vec<f32> {
        let [_, height, width] = self.input_size;
        let each = |axis: usize| window[axis].inputs.clone().step_by(window[axis].step);
        let mut row = Vec::new();
        for d in each(0) {
            for h in each(1) {
                row.extend(each(2).map(|w| x[(d * height + h) * width + w]));
            }
        }
        row
    }
}
