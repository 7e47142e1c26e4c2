//! The attention with lanes over the columns of the state, which do not meet, and threads over sequences, heads and columns.
//!
//! A token writes and reads in one pass. The sums z go along the tokens by themselves, before.

use jetblock_numerics::Lanes;
use jetblock_numerics::math::exp;
use jetblock_simd::{Cpu, Simd, fp_env};

use super::{EPS, LinearAttention};
use crate::OpError;
use crate::columns_of_state::{
    Group, Inputs, Piece, Recurrence, VECTORS, pass_all, write_and_read,
};
use crate::row::{self, load_part, store_part};

impl LinearAttention<'_> {
    /// The same bits as [`LinearAttention::reference`], faster.
    pub fn cpu(
        &self,
        states: &mut [&mut [f32]],
        out: &mut [f32],
        cpu: &Cpu,
    ) -> Result<(), OpError> {
        self.check_all(states, out)?;
        let _guard = fp_env::Guard::new();
        let inputs = Inputs {
            q: &self.q,
            k: &self.k,
            v: &self.v,
            groups: self.heads,
            heads: self.heads,
            row_len: self.value_dim() + 1,
        };
        pass_all(self, inputs, self.segments, states, out, cpu);
        Ok(())
    }
}

/// k and q become their features, the first scalar is what the output is divided by, and z stands beside the state.
impl Recurrence for LinearAttention<'_> {
    #[inline(always)]
    fn prepare<S: Simd>(&self, simd: S, piece: &mut Piece<'_>, z: &mut [f32]) {
        let mut weights = vec![0.0; z.len()];
        for t in 0..piece.len() {
            let [k, q] = piece.keys_mut(t);
            features(simd, k);
            features(simd, q);
            let vectors = k.chunks(S::LANES).zip(q.chunks(S::LANES));
            let places = z.chunks_mut(S::LANES).zip(weights.chunks_mut(S::LANES));
            for ((k, q), (z, weights)) in vectors.zip(places) {
                let sum = load_part(simd, z).add(load_part(simd, k));
                store_part(simd, load_part(simd, q).mul(sum), weights);
                store_part(simd, sum, z);
            }
            piece.scalars[t][0] = row::sum(simd, &weights) + EPS;
        }
    }

    #[inline(always)]
    fn pass<S: Simd>(&self, simd: S, piece: &mut Piece<'_>, group: Group<'_>) {
        for t in 0..piece.len() {
            let (token, v) = (piece.token(t), piece.load_v(simd, t, group.column));
            let mut out = write_and_read(simd, group.state, group.stride, token, v);
            let divisor = S::F::splat(token.scalars[0]);
            for i in 0..VECTORS {
                out[i] = out[i].div(divisor);
            }
            piece.store_out(simd, t, group.column, out);
        }
    }
}

#[inline(always)]
fn features<S: Simd>(simd: S, x: &mut [f32]) {
    let zero = S::F::splat(0.0);
    for place in x.chunks_mut(S::LANES) {
        let x = load_part(simd, place);
        let above = zero.lt(x);
        let feature = S::F::select(above, x.add(S::F::splat(1.0)), exp(x));
        store_part(simd, feature, place);
    }
}
