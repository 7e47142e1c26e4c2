//! The rule with lanes over the columns of the state, which do not meet, and threads over sequences, heads and columns.
//!
//! What a token writes and what the next one reads first are one pass: the state is loaded and stored once for each
//! token.

use jetblock_numerics::Lanes;
use jetblock_numerics::math::{exp, rsqrt};
use jetblock_simd::{Cpu, Simd, fp_env};

use super::{GatedDeltaRule, L2_EPS};
use crate::OpError;
use crate::columns_of_state::{
    BLOCK, Group, Inputs, Piece, Recurrence, Token, VECTORS, add, pass_all, write_and_read,
};
use crate::row::{self, MAX_LANES, load_part, store_part};

impl GatedDeltaRule<'_> {
    /// The same bits as [`GatedDeltaRule::reference`], faster.
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
            groups: self.groups,
            heads: self.heads(),
            row_len: self.value_dim(),
        };
        pass_all(self, inputs, self.segments, states, out, cpu);
        Ok(())
    }

    /// One head of q or k: to length 1 where that is asked for, then times `scale`.
    #[inline(always)]
    fn scale_head<S: Simd>(&self, simd: S, x: &mut [f32], scale: Option<f32>) {
        let factor = match self.qk_l2norm {
            true => Some(rsqrt(row::sum_of_squares(simd, x) + L2_EPS)),
            false => None,
        };
        for x in x.chunks_mut(S::LANES) {
            let mut v = load_part(simd, x);
            if let Some(factor) = factor {
                v = v.mul(S::F::splat(factor));
            }
            if let Some(scale) = scale {
                v = v.mul(S::F::splat(scale));
            }
            store_part(simd, v, x);
        }
    }
}

/// k and q are scaled, the scalars are `exp(g)` and beta.
impl Recurrence for GatedDeltaRule<'_> {
    #[inline(always)]
    fn prepare<S: Simd>(&self, simd: S, piece: &mut Piece<'_>, _: &mut [f32]) {
        let (first, head) = (piece.first, piece.head);
        for t in 0..piece.len() {
            let [k, q] = piece.keys_mut(t);
            self.scale_head(simd, k, None);
            self.scale_head(simd, q, Some(self.scale));
        }
        let mut decays = [0.0; MAX_LANES];
        for (i, scalars) in piece.scalars.chunks_mut(S::LANES).enumerate() {
            let first = first + i * S::LANES;
            for (r, g) in (first..first + scalars.len()).zip(&mut decays) {
                *g = self.g.row(r)[head];
            }
            simd.store(exp(simd.load(&decays)), &mut decays);
            for (r, (scalars, decay)) in (first..).zip(scalars.iter_mut().zip(decays)) {
                *scalars = [decay, self.beta.row(r)[head]];
            }
        }
    }

    #[inline(always)]
    fn pass<S: Simd>(&self, simd: S, piece: &mut Piece<'_>, group: Group<'_>) {
        let Group {
            state,
            stride,
            column,
        } = group;
        let mut read = decay_and_read(simd, state, stride, piece.token(0));
        for t in 0..piece.len() {
            let (token, v) = (piece.token(t), piece.load_v(simd, t, column));
            let beta = S::F::splat(token.scalars[1]);
            let mut u = [S::F::splat(0.0); VECTORS];
            for i in 0..VECTORS {
                u[i] = beta.mul(v[i].sub(read[i]));
            }
            let out;
            if t + 1 < piece.len() {
                (out, read) = write_and_decay(simd, state, stride, token, u, piece.token(t + 1));
            } else {
                out = write_and_read(simd, state, stride, token, u);
            }
            piece.store_out(simd, t, column, out);
        }
    }
}

/// `S = decay * S`; returns `dot(k, S)`.
#[inline(always)]
fn decay_and_read<S: Simd>(
    simd: S,
    state: &mut [f32],
    stride: usize,
    token: Token<'_>,
) -> [S::F; VECTORS] {
    let decay = S::F::splat(token.scalars[0]);
    let mut total = [S::F::splat(0.0); VECTORS];
    for (rows, k) in state.chunks_mut(BLOCK * stride).zip(token.k.chunks(BLOCK)) {
        let mut chain = [S::F::splat(0.0); VECTORS];
        for (row, &k) in rows.chunks_mut(stride).zip(k) {
            let k = S::F::splat(k);
            for i in 0..VECTORS {
                let part = &mut row[i * S::LANES..(i + 1) * S::LANES];
                let s = decay.mul(simd.load(part));
                chain[i] = k.fma(s, chain[i]);
                simd.store(s, part);
            }
        }
        add::<S>(&mut total, chain);
    }
    total
}

/// [`write_and_read`] of a token, then [`decay_and_read`] of the next.
#[inline(always)]
fn write_and_decay<S: Simd>(
    simd: S,
    state: &mut [f32],
    stride: usize,
    token: Token<'_>,
    u: [S::F; VECTORS],
    next: Token<'_>,
) -> ([S::F; VECTORS], [S::F; VECTORS]) {
    let decay = S::F::splat(next.scalars[0]);
    let (mut out, mut read) = ([S::F::splat(0.0); VECTORS], [S::F::splat(0.0); VECTORS]);
    let keys = token.k.chunks(BLOCK).zip(token.q.chunks(BLOCK));
    let blocks = keys.zip(next.k.chunks(BLOCK));
    for (rows, ((k, q), next_k)) in state.chunks_mut(BLOCK * stride).zip(blocks) {
        let mut out_chain = [S::F::splat(0.0); VECTORS];
        let mut read_chain = [S::F::splat(0.0); VECTORS];
        for (row, ((&k, &q), &next_k)) in rows.chunks_mut(stride).zip(k.iter().zip(q).zip(next_k)) {
            let (k, q, next_k) = (S::F::splat(k), S::F::splat(q), S::F::splat(next_k));
            for i in 0..VECTORS {
                let part = &mut row[i * S::LANES..(i + 1) * S::LANES];
                let s = k.fma(u[i], simd.load(part));
                out_chain[i] = q.fma(s, out_chain[i]);
                let s = decay.mul(s);
                read_chain[i] = next_k.fma(s, read_chain[i]);
                simd.store(s, part);
            }
        }
        add::<S>(&mut out, out_chain);
        add::<S>(&mut read, read_chain);
    }
    (out, read)
}
