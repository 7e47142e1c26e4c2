//! Sampling with lanes over the vocabulary and no more sorting than the parameters ask for.

use std::borrow::Cow;

use jetblock_numerics::math::exp;
use jetblock_numerics::{Lanes, fma, rng};
use jetblock_simd::{Cpu, Kernel, Simd, fp_env};

use super::{Sampling, SamplingParams, check_greatest, fixed_point, weight};
use crate::OpError;
use crate::row::{self, load_part, store_part};

/// Candidates sorted at first for top-p; four times as many each time they do not suffice.
const FIRST_SORTED: usize = 256;

impl Sampling<'_> {
    /// The same token as [`Sampling::reference`], faster.
    pub fn cpu(&self, cpu: &Cpu) -> Result<u32, OpError> {
        self.check()?;
        let _guard = fp_env::Guard::new();
        let l = self.adjusted();
        if self.params.temperature == 0.0 {
            let greatest = cpu.run(Greatest { x: &l });
            check_greatest(greatest, "greatest logit")?;
            let first = l.iter().position(|l| *l == greatest);
            return Ok(first.expect("the maximum is an element") as u32);
        }
        let (mut z, mut e) = (l.into_owned(), Vec::new());
        let m = cpu.run(Scale {
            z: &mut z,
            temperature: self.params.temperature,
        });
        check_greatest(m, "greatest logit over temperature")?;
        e.resize(z.len(), 0.0);
        cpu.run(Exponentials {
            z: &z,
            m,
            e: &mut e,
        });

        let random = self.random();
        if self.params.keeps_all() {
            return Ok(choose(random, || e.iter().map(|e| weight(*e))) as u32);
        }
        let ids = kept(self.params, &z, &e);
        let chosen = choose(random, || ids.iter().map(|id| weight(e[*id as usize])));
        Ok(ids[chosen])
    }

    /// The logits after penalties and bias.
    fn adjusted(&self) -> Cow<'_, [f32]> {
        let params = self.params;
        if !params.changes_logits() {
            return Cow::Borrowed(self.logits);
        }
        let mut l = self.logits.to_vec();
        let mut counts = vec![0_u32; l.len()];
        for id in self.output_ids {
            counts[*id as usize] += 1;
        }
        if params.repetition_penalty != 1.0 {
            let mut seen: Vec<bool> = counts.iter().map(|count| *count > 0).collect();
            self.prompt_ids
                .iter()
                .for_each(|id| seen[*id as usize] = true);
            for (l, _) in l.iter_mut().zip(seen).filter(|(_, seen)| *seen) {
                *l = if *l > 0.0 {
                    *l / params.repetition_penalty
                } else {
                    *l * params.repetition_penalty
                };
            }
        }
        for (l, count) in l.iter_mut().zip(counts).filter(|(_, count)| *count > 0) {
            *l = fma(-params.frequency_penalty, count as f32, *l) - params.presence_penalty;
        }
        for (id, bias) in &params.logit_bias {
            l[*id as usize] += bias;
        }
        Cow::Owned(l)
    }
}

impl SamplingParams {
    fn keeps_all(&self) -> bool {
        self.top_k == 0 && self.top_p >= 1.0 && self.min_p == 0.0
    }
}

/// The ids that remain after top-k, top-p and min-p, ascending.
fn kept(params: &SamplingParams, z: &[f32], e: &[f32]) -> Vec<u32> {
    let w = |key: &u64| u128::from(weight(e[id(*key) as usize]));
    let mut keys: Vec<u64> = z
        .iter()
        .enumerate()
        .map(|(id, z)| key(*z, id as u32))
        .collect();
    let top_k = params.top_k as usize;
    if (1..keys.len()).contains(&top_k) {
        keys.select_nth_unstable(top_k);
        keys.truncate(top_k);
    }
    if params.top_p < 1.0 {
        let needed = fixed_point(params.top_p) * keys.iter().map(w).sum::<u128>();
        let len = prefix_reaching(&mut keys, needed, w);
        keys.truncate(len);
    }
    if params.min_p > 0.0 {
        let first = keys
            .iter()
            .min()
            .expect("the most probable candidate is kept");
        let needed = fixed_point(params.min_p) * w(first);
        keys.retain(|key| w(key) << 32 >= needed);
    }
    let mut ids: Vec<u32> = keys.into_iter().map(id).collect();
    ids.sort_unstable();
    ids
}

/// Length of the shortest ascending prefix whose weights reach `needed / 2^32`; sorts only about as far.
fn prefix_reaching(keys: &mut [u64], needed: u128, w: impl Fn(&u64) -> u128) -> usize {
    let (mut sorted, mut total) = (0, 0);
    while sorted < keys.len() {
        let end = keys.len().min((sorted * 4).max(FIRST_SORTED));
        if end < keys.len() {
            keys[sorted..].select_nth_unstable(end - sorted);
        }
        keys[sorted..end].sort_unstable();
        for i in sorted..end {
            total += w(&keys[i]);
            if total << 32 >= needed {
                return i + 1;
            }
        }
        sorted = end;
    }
    keys.len()
}

/// Sorts ascending as candidates do: z descending, then id ascending.
fn key(z: f32, id: u32) -> u64 {
    // Adding +0 turns -0 into +0, which compares equal to it.
    let bits = (z + 0.0).to_bits();
    let descending = if bits >> 31 == 1 {
        bits
    } else {
        !bits & 0x7FFF_FFFF
    };
    u64::from(descending) << 32 | u64::from(id)
}

fn id(key: u64) -> u32 {
    key as u32
}

/// Index of the first weight whose cumulative sum exceeds the share of their total that `random` stands for.
fn choose<I: Iterator<Item = u64>>(random: u64, weights: impl Fn() -> I) -> usize {
    let t = rng::mulhi64(random, weights().sum());
    let mut cumulative = 0;
    let chosen = weights().position(|w| {
        cumulative += w;
        cumulative > t
    });
    chosen.expect("t is below the sum of all weights")
}

/// The greatest element.
struct Greatest<'a> {
    x: &'a [f32],
}

impl Kernel for Greatest<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f32 {
        row::max(simd, self.x)
    }
}

/// `z = l / temperature`; returns the greatest.
struct Scale<'a> {
    z: &'a mut [f32],
    temperature: f32,
}

impl Kernel for Scale<'_> {
    type Output = f32;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> f32 {
        let temperature = S::F::splat(self.temperature);
        for z in self.z.chunks_mut(S::LANES) {
            store_part(simd, load_part(simd, z).div(temperature), z);
        }
        row::max(simd, self.z)
    }
}

/// `e = exp(z - m)`.
struct Exponentials<'a> {
    z: &'a [f32],
    m: f32,
    e: &'a mut [f32],
}

impl Kernel for Exponentials<'_> {
    type Output = ();

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let m = S::F::splat(self.m);
        for (z, e) in self.z.chunks(S::LANES).zip(self.e.chunks_mut(S::LANES)) {
            store_part(simd, exp(load_part(simd, z).sub(m)), e);
        }
    }
}
