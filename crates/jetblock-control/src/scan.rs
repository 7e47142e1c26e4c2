//! The Mamba-2 scan in its usual two forms: chunks for prefill, from where the piece starts, and a state update for
//! single tokens (nemotron's reference: "structured state-space duality", Dao and Gu 2024, section 6).

use jetblock_numerics::Lanes;
use jetblock_numerics::math::{exp, softplus};
use jetblock_ops::Segment;
use jetblock_ops::selective_scan::SelectiveScan;
use jetblock_simd::{Cpu, Kernel, Simd, TileMut, steps, tiles};

/// Tokens in a chunk.
const CHUNK: usize = 64;
/// Tokens whose outputs stand in registers together.
const TOKENS: usize = 4;

pub(crate) fn selective_scan(
    cpu: &Cpu,
    args: &SelectiveScan<'_>,
    states: &mut [&mut [f32]],
    out: &mut [f32],
) {
    let heads = args.a.len();
    let inner = args.x.width();
    let (head_dim, state) = (inner / heads, args.b.width() / args.groups);
    let rows: Vec<_> = args
        .segments
        .iter()
        .map(|segment| segment.rows.clone())
        .collect();
    let outs = tiles(out, inner, &rows, &steps(inner, head_dim));
    let states = states
        .iter_mut()
        .flat_map(|s| s.chunks_exact_mut(head_dim * state));
    let segments = args
        .segments
        .iter()
        .flat_map(|segment| (0..heads).map(move |head| (segment, head)));
    let mut dt = Vec::new();
    for row in rows.iter().cloned().flatten() {
        dt.extend(
            args.dt_raw
                .row(row)
                .iter()
                .zip(args.dt_bias)
                .map(|(dt, bias)| dt + bias),
        );
    }
    cpu.run(TimeSteps {
        values: &mut dt,
        limit: args.dt_limit,
    });
    let items: Vec<Head<'_>> = segments
        .zip(outs)
        .zip(states)
        .map(|(((segment, head), out), state)| Head {
            args,
            dt: &dt,
            segment,
            head,
            state,
            out,
        })
        .collect();
    cpu.par_items(items, |item| cpu.run(item));
}

/// softplus and clamp, in place.
struct TimeSteps<'a> {
    values: &'a mut [f32],
    limit: (f32, f32),
}

impl Kernel for TimeSteps<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        for_each(simd, self.values, |_, x| softplus(x));
        for x in self.values {
            *x = x.clamp(self.limit.0, self.limit.1);
        }
    }
}

/// Maps values in place, vector by vector; the last vector is padded.
#[inline(always)]
fn for_each<S: Simd>(simd: S, values: &mut [f32], f: impl Fn(S, S::F) -> S::F) {
    for values in values.chunks_mut(S::LANES) {
        let mut padded = [0.0; 16];
        padded[..values.len()].copy_from_slice(values);
        simd.store(f(simd, simd.load(&padded)), &mut padded);
        values.copy_from_slice(&padded[..values.len()]);
    }
}

struct Head<'a> {
    args: &'a SelectiveScan<'a>,
    /// `[R, H]`.
    dt: &'a [f32],
    segment: &'a Segment,
    head: usize,
    /// `[N, P]`.
    state: &'a mut [f32],
    /// `[T, P]`.
    out: TileMut<'a, f32>,
}

impl Kernel for Head<'_> {
    type Output = ();
    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        if self.segment.len() == 1 {
            return self.update(simd);
        }
        let mut scratch = Scratch::default();
        for start in (0..self.segment.len()).step_by(CHUNK) {
            let len = CHUNK.min(self.segment.len() - start);
            self.chunk(simd, start, len, &mut scratch);
        }
    }
}

#[derive(Default)]
struct Scratch {
    /// dt * x, `[L, P]`.
    u: Vec<f32>,
    /// dt times the remaining decay times x, `[L, P]`.
    tail: Vec<f32>,
    /// Sum of dt * A up to each token.
    sum: Vec<f32>,
    /// Decayed C·B of a row of tokens with all earlier ones.
    score: Vec<f32>,
}

impl Head<'_> {
    fn dt(&self, row: usize) -> f32 {
        self.dt[row * self.args.a.len() + self.head]
    }

    /// B or C of this head's group.
    fn of_group<'r>(&self, row: &'r [f32]) -> &'r [f32] {
        let state = row.len() / self.args.groups;
        let group = self.head / (self.args.a.len() / self.args.groups);
        &row[group * state..][..state]
    }

    fn x(&self, row: usize) -> &[f32] {
        let head_dim = self.out.cols();
        &self.args.x.row(row)[self.head * head_dim..][..head_dim]
    }

    #[inline(always)]
    fn update<S: Simd>(&mut self, simd: S) {
        let row = self.segment.rows.start;
        let dt = self.dt(row);
        let mut decay = [dt * self.args.a[self.head]];
        for_each(simd, &mut decay, |_, x| exp(x));
        let [decay] = decay;
        let (b, c) = (
            self.of_group(self.args.b.row(row)),
            self.of_group(self.args.c.row(row)),
        );
        let head_dim = self.out.cols();
        let u: Vec<f32> = self.x(row).iter().map(|x| x * dt).collect();
        let skip = self.args.d[self.head];
        let mut y: Vec<f32> = self.x(row).iter().map(|x| x * skip).collect();
        let whole = head_dim / S::LANES * S::LANES;
        for (n, state) in self.state.chunks_exact_mut(head_dim).enumerate() {
            for at in (0..whole).step_by(S::LANES) {
                let s = simd.load(&state[at..]).mul(S::F::splat(decay));
                let s = simd.load(&u[at..]).fma(S::F::splat(b[n]), s);
                simd.store(s, &mut state[at..]);
                simd.store(s.fma(S::F::splat(c[n]), simd.load(&y[at..])), &mut y[at..]);
            }
            for at in whole..head_dim {
                state[at] = state[at] * decay + u[at] * b[n];
                y[at] += state[at] * c[n];
            }
        }
        self.out.row_mut(0).copy_from_slice(&y);
    }

    #[inline(always)]
    fn chunk<S: Simd>(&mut self, simd: S, start: usize, len: usize, scratch: &mut Scratch) {
        let head_dim = self.out.cols();
        let first = self.segment.rows.start + start;
        let (a, skip) = (self.args.a[self.head], self.args.d[self.head]);
        let Scratch {
            u,
            tail,
            sum,
            score,
        } = scratch;
        u.clear();
        sum.clear();
        let mut total = 0.0;
        for t in 0..len {
            let dt = self.dt(first + t);
            total += dt * a;
            sum.push(total);
            u.extend(self.x(first + t).iter().map(|x| x * dt));
        }
        let (mut left, mut decays) = ([0.0; CHUNK], [0.0; CHUNK]);
        for t in 0..len {
            left[t] = total - sum[t];
            decays[t] = sum[t];
        }
        for_each(simd, &mut left[..len], |_, x| exp(x));
        for_each(simd, &mut decays[..len], |_, x| exp(x));
        tail.clear();
        for t in 0..len {
            tail.extend(u[t * head_dim..][..head_dim].iter().map(|u| u * left[t]));
        }
        let mut t = 0;
        while t < len {
            let take = TOKENS.min(len - t);
            // C·B with every token up to each of these, decayed; later ones count zero.
            score.clear();
            score.resize(TOKENS * len, 0.0);
            for i in 0..take {
                let c = self.of_group(self.args.c.row(first + t + i));
                let own = &mut score[i * len..][..t + i + 1];
                let mut gaps = [0.0; CHUNK];
                for j in 0..own.len() {
                    gaps[j] = sum[t + i] - sum[j];
                }
                for_each(simd, &mut gaps[..own.len()], |_, x| exp(x));
                for (j, own) in own.iter_mut().enumerate() {
                    *own = dot(simd, c, self.of_group(self.args.b.row(first + j))) * gaps[j];
                }
            }
            let mut c = [&[][..]; TOKENS];
            let mut decay = [0.0; TOKENS];
            for i in 0..TOKENS {
                let at = t + i.min(take - 1);
                c[i] = self.of_group(self.args.c.row(first + at));
                decay[i] = decays[at];
            }
            let whole = head_dim / S::LANES * S::LANES;
            for at in (0..whole).step_by(S::LANES) {
                let mut y = [S::F::splat(0.0); TOKENS];
                for (n, state) in self.state.chunks_exact(head_dim).enumerate() {
                    let s = simd.load(&state[at..]);
                    for i in 0..TOKENS {
                        y[i] = s.fma(S::F::splat(c[i][n]), y[i]);
                    }
                }
                for i in 0..TOKENS {
                    y[i] = y[i].mul(S::F::splat(decay[i]));
                }
                for j in 0..t + take {
                    let u = simd.load(&u[j * head_dim + at..]);
                    for i in 0..TOKENS {
                        y[i] = u.fma(S::F::splat(score[i * len + j]), y[i]);
                    }
                }
                for i in 0..take {
                    let x = simd.load(&self.x(first + t + i)[at..]);
                    let y = x.fma(S::F::splat(skip), y[i]);
                    simd.store(y, &mut self.out.row_mut(start + t + i)[at..]);
                }
            }
            for at in whole..head_dim {
                for i in 0..take {
                    let states = self.state.chunks_exact(head_dim);
                    let carried = states
                        .zip(c[i])
                        .fold(0.0, |y, (state, c)| y + state[at] * c);
                    let inside =
                        (0..=t + i).fold(0.0, |y, j| y + score[i * len + j] * u[j * head_dim + at]);
                    let y = carried * decay[i] + inside + skip * self.x(first + t + i)[at];
                    self.out.row_mut(start + t + i)[at] = y;
                }
            }
            t += take;
        }
        let decay = decays[len - 1];
        self.advance(simd, first, len, decay, tail);
    }

    /// The state at the end of the chunk.
    #[inline(always)]
    fn advance<S: Simd>(&mut self, simd: S, first: usize, len: usize, decay: f32, tail: &[f32]) {
        let head_dim = self.out.cols();
        let b: Vec<&[f32]> = (0..len)
            .map(|t| self.of_group(self.args.b.row(first + t)))
            .collect();
        let whole = head_dim / S::LANES * S::LANES;
        for (n, state) in self.state.chunks_exact_mut(head_dim).enumerate() {
            for at in (0..whole).step_by(S::LANES) {
                let mut s = simd.load(&state[at..]).mul(S::F::splat(decay));
                for (t, b) in b.iter().enumerate() {
                    s = simd
                        .load(&tail[t * head_dim + at..])
                        .fma(S::F::splat(b[n]), s);
                }
                simd.store(s, &mut state[at..]);
            }
            for at in whole..head_dim {
                let own = state[at] * decay;
                state[at] = b
                    .iter()
                    .enumerate()
                    .fold(own, |s, (t, b)| s + tail[t * head_dim + at] * b[n]);
            }
        }
    }
}

#[inline(always)]
fn dot<S: Simd>(simd: S, a: &[f32], b: &[f32]) -> f32 {
    let whole = a.len() / S::LANES * S::LANES;
    let mut acc = S::F::splat(0.0);
    for at in (0..whole).step_by(S::LANES) {
        acc = simd.load(&a[at..]).fma(simd.load(&b[at..]), acc);
    }
    let mut lanes = [0.0; 16];
    simd.store(acc, &mut lanes);
    let sum = lanes[..S::LANES].iter().fold(0.0, |sum, x| sum + x);
    a[whole..]
        .iter()
        .zip(&b[whole..])
        .fold(sum, |sum, (a, b)| sum + a * b)
}
