//! The rule with lanes over the columns of the state, which do not meet, and threads over sequences, heads and columns.
//!
//! What a token writes and what the next one reads first are one pass: the state is loaded and stored once for each
//! token.

use jetblock_numerics::math::{exp, rsqrt};
use jetblock_numerics::{Lanes, canonical};
use jetblock_simd::{Cpu, Kernel, Simd, TileMut, fp_env};

use super::{GatedDeltaRule, L2_EPS};
use crate::OpError;
use crate::columns_of_state::{
    BLOCK, Group, Recurrence, StateShape, VECTORS, add, load_group, strips, write_and_read,
};
use crate::row::{self, load_part, store_part};

/// Elements of q and k that are worth a thread's while.
const GRAIN: usize = 16 * 1024;

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
        let heads = self.heads();

        let width = 2 * self.q.width() + heads;
        let mut prepared = vec![0.0; self.rows() * width];
        cpu.par_rows(
            &mut prepared,
            width,
            GRAIN.div_ceil(width),
            |first, rows| {
                cpu.run(Prepare {
                    op: self,
                    first,
                    rows,
                });
            },
        );

        let rows: Vec<_> = self.segments.iter().map(|s| s.rows.clone()).collect();
        let rule = Rule {
            op: self,
            prepared: &prepared,
        };
        let shape = StateShape {
            heads,
            keys: self.key_dim(),
            values: self.value_dim(),
            row_len: self.value_dim(),
        };
        let strips = strips(&rule, shape, &rows, states, out);
        cpu.par_items(strips, |strip| cpu.run(strip));
        Ok(())
    }
}

/// Rows of `[k [G, K] | q [G, K] | exp(g) [H]]`, k and q as the recurrence takes them.
struct Prepare<'a> {
    op: &'a GatedDeltaRule<'a>,
    first: usize,
    rows: &'a mut [f32],
}

impl Kernel for Prepare<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let op = self.op;
        let (width, keys) = (op.q.width(), op.key_dim());
        for (i, row) in self
            .rows
            .chunks_exact_mut(2 * width + op.heads())
            .enumerate()
        {
            let r = self.first + i;
            let (unit_k, rest) = row.split_at_mut(width);
            let (unit_q, decays) = rest.split_at_mut(width);
            for start in (0..width).step_by(keys) {
                let head = start..start + keys;
                let (k, q) = (&op.k.row(r)[head.clone()], &op.q.row(r)[head.clone()]);
                op.scale_head(simd, k, None, &mut unit_k[head.clone()]);
                op.scale_head(simd, q, Some(op.scale), &mut unit_q[head]);
            }
            let decays = decays.chunks_mut(S::LANES);
            for (out, g) in decays.zip(op.g.row(r).chunks(S::LANES)) {
                store_part(simd, exp(load_part(simd, g)), out);
            }
        }
    }
}

impl GatedDeltaRule<'_> {
    /// One head of q or k: to length 1 where that is asked for, then times `scale`.
    #[inline(always)]
    fn scale_head<S: Simd>(&self, simd: S, x: &[f32], scale: Option<f32>, out: &mut [f32]) {
        let factor = match self.qk_l2norm {
            true => Some(rsqrt(row::sum_of_squares(simd, x) + L2_EPS)),
            false => None,
        };
        for (x, out) in x.chunks(S::LANES).zip(out.chunks_mut(S::LANES)) {
            let mut v = load_part(simd, x);
            if let Some(factor) = factor {
                v = v.mul(S::F::splat(factor));
            }
            if let Some(scale) = scale {
                v = v.mul(S::F::splat(scale));
            }
            store_part(simd, v, out);
        }
    }
}

/// The recurrence, with what was prepared for it.
struct Rule<'a> {
    op: &'a GatedDeltaRule<'a>,
    prepared: &'a [f32],
}

/// What a token brings, but v.
#[derive(Clone, Copy)]
struct Token<'a> {
    k: &'a [f32],
    q: &'a [f32],
    decay: f32,
    beta: f32,
}

impl Rule<'_> {
    #[inline(always)]
    fn token(&self, r: usize, head: usize) -> Token<'_> {
        let op = self.op;
        let width = op.q.width();
        let row = &self.prepared[r * (2 * width + op.heads())..];
        let columns = op.key_columns(head);
        Token {
            k: &row[columns.clone()],
            q: &row[width..][columns],
            decay: row[2 * width + head],
            beta: op.beta.row(r)[head],
        }
    }
}

impl Recurrence for Rule<'_> {
    #[inline(always)]
    fn pass_tokens<S: Simd>(&self, simd: S, group: Group<'_>, out: &mut TileMut<'_, f32>) {
        let Group {
            state,
            stride,
            first,
            head,
            values,
            outputs,
        } = group;
        let tokens = out.rows();
        let mut read = decay_and_read(simd, state, stride, self.token(first, head));
        for t in 0..tokens {
            let token = self.token(first + t, head);
            let v = load_group(simd, &self.op.v.row(first + t)[values.clone()]);
            let mut u = [S::F::splat(0.0); VECTORS];
            for i in 0..VECTORS {
                u[i] = S::F::splat(token.beta).mul(v[i].sub(read[i]));
            }
            let o;
            if t + 1 < tokens {
                let next = self.token(first + t + 1, head);
                (o, read) = write_and_decay(simd, state, stride, token, u, next);
            } else {
                o = write_and_read(simd, state, stride, token.k, token.q, u);
            }
            let out = out.row_mut(t)[outputs.clone()].chunks_mut(S::LANES);
            for (o, out) in o.iter().zip(out) {
                store_part(simd, canonical(*o), out);
            }
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
    let decay = S::F::splat(token.decay);
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
    let decay = S::F::splat(next.decay);
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
