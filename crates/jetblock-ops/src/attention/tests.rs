use jetblock_simd::{Cpu, fp_env};
use jetblock_testing::*;

use super::*;
use crate::linear::OperandKind;

mod cache;
mod cuts;

const CASES: [(OperandKind, KvDtype); 8] = [
    (OperandKind::Bf16, KvDtype::Bf16),
    (OperandKind::Bf16, KvDtype::F32),
    (OperandKind::F32, KvDtype::Bf16),
    (OperandKind::F32, KvDtype::F32),
    (OperandKind::Bf16, KvDtype::Fp8),
    (OperandKind::F32, KvDtype::Fp8),
    (OperandKind::Bf16, KvDtype::Nvfp4),
    (OperandKind::F32, KvDtype::Nvfp4),
];

/// Fused projections of several sequences: rows `[q | k | v]`, and the cache of each.
struct Batch {
    config: KvCacheConfig,
    heads: usize,
    qkv: Vec<f32>,
    segments: Vec<Segment>,
    caches: Vec<KvCache>,
}

impl Batch {
    /// `sequences` are (tokens before, rows of this step); the tokens before are painted as well.
    fn new(
        config: KvCacheConfig,
        heads: usize,
        sequences: &[(usize, usize)],
        paint: impl Fn(u32, usize) -> Vec<f32>,
    ) -> Batch {
        let (q, kv) = widths(&config, heads);
        let rows: usize = sequences.iter().map(|&(_, rows)| rows).sum();
        let mut batch = Batch {
            config,
            heads,
            qkv: paint(1, rows * (q + 2 * kv)),
            segments: Vec::new(),
            caches: Vec::new(),
        };
        let mut at = 0;
        for (i, &(start, len)) in sequences.iter().enumerate() {
            let mut cache = KvCache::new(config).expect("a valid config");
            let before = paint(2 + i as u32, start * 2 * kv);
            let part = |columns| Columns {
                data: &before,
                row_len: 2 * kv,
                columns,
            };
            cache
                .append(part(0..kv), part(kv..2 * kv), 0..start)
                .expect("fits");
            let rows = at..at + len;
            cache
                .append(
                    batch.columns(q..q + kv),
                    batch.columns(q + kv..q + 2 * kv),
                    rows.clone(),
                )
                .expect("fits");
            batch.segments.push(Segment { rows, start });
            batch.caches.push(cache);
            at += len;
        }
        batch
    }

    fn columns(&self, columns: std::ops::Range<usize>) -> Columns<'_> {
        let (q, kv) = widths(&self.config, self.heads);
        Columns {
            data: &self.qkv,
            row_len: q + 2 * kv,
            columns,
        }
    }

    fn with<T>(&self, split: usize, f: impl FnOnce(&Attention) -> T) -> T {
        let caches: Vec<&KvCache> = self.caches.iter().collect();
        f(&Attention {
            q: self.columns(0..widths(&self.config, self.heads).0),
            segments: &self.segments,
            caches: &caches,
            num_attention_heads: self.heads,
            split,
        })
    }

    fn outputs(&self) -> usize {
        let rows = self.segments.last().map_or(0, |segment| segment.rows.end);
        rows * widths(&self.config, self.heads).0
    }

    fn reference(&self, split: usize) -> Vec<f32> {
        let mut out = Guarded::new(self.outputs());
        self.with(split, |op| op.reference(&mut out))
            .expect("valid arguments");
        out.assert_intact();
        out.to_vec()
    }

    fn cpu(&self, split: usize, cpu: &Cpu) -> Vec<f32> {
        let mut out = Guarded::new(self.outputs());
        self.with(split, |op| op.cpu(&mut out, cpu))
            .expect("valid arguments");
        out.assert_intact();
        out.to_vec()
    }
}

fn widths(config: &KvCacheConfig, heads: usize) -> (usize, usize) {
    (
        heads * config.head_dim,
        config.num_key_value_heads * config.head_dim,
    )
}

/// `head_dim` is raised to one that the dtype has; quantized caches get scales that are no powers of two.
fn config(
    kv_heads: usize,
    head_dim: usize,
    (kind, dtype): (OperandKind, KvDtype),
) -> KvCacheConfig {
    let quantized = dtype.is_quantized();
    KvCacheConfig {
        num_key_value_heads: kv_heads,
        head_dim: head_dim.next_multiple_of(dtype.head_dim_multiple()),
        kind,
        dtype,
        k_scale: if quantized { 0.37 } else { 1.0 },
        v_scale: if quantized { 1.7 } else { 1.0 },
    }
}

fn assert_cpu_equals_reference(batch: &Batch, split: usize) -> Vec<f32> {
    let want = batch.reference(split);
    for_every_cpu(|cpu| {
        let what = format!("{:?}, {} heads, split {split}", batch.config, batch.heads);
        assert_bits_equal(what, &batch.cpu(split, cpu), &want);
    });
    want
}

#[test]
fn cpu_equals_reference_at_every_head_dim() {
    for case in CASES {
        for head_dim in [1, 7, 12, 16, 20, 33, 64, 80, 96, 128, 257, 300] {
            let batch = Batch::new(
                config(2, head_dim, case),
                4,
                &[(0, 5), (62, 4), (0, 1)],
                painted,
            );
            assert_cpu_equals_reference(&batch, 64);
        }
    }
}

#[test]
fn cpu_equals_reference_at_every_group_and_split() {
    for case in CASES {
        for (kv_heads, heads) in [(1, 1), (3, 3), (2, 4), (2, 10), (2, 12), (1, 16), (1, 200)] {
            let batch = Batch::new(
                config(kv_heads, 20, case),
                heads,
                &[(0, 3), (125, 6), (63, 1)],
                painted,
            );
            for split in [64, 128, 256] {
                assert_cpu_equals_reference(&batch, split);
            }
        }
    }
}

#[test]
fn cpu_equals_reference_over_many_blocks() {
    for case in CASES {
        let batch = Batch::new(
            config(1, 16, case),
            2,
            &[(511, 2), (0, 300), (1023, 1)],
            painted,
        );
        let by_split = [64, 128, 256].map(|split| assert_cpu_equals_reference(&batch, split));
        assert_bits_differ("another split", &by_split[0], &by_split[2]);
        assert_bits_differ("another split", &by_split[1], &by_split[2]);
    }
}

#[test]
fn special_values_give_the_same_bits() {
    for case in CASES {
        for every in [30, 300, 3000] {
            let paint = |seed, count| painted_special(seed, count, every);
            let batch = Batch::new(config(2, 12, case), 4, &[(0, 70), (60, 10)], paint);
            let want = assert_cpu_equals_reference(&batch, 64);
            assert!(want.iter().any(|y| y.is_nan()), "some row meets a NaN");
            assert!(
                want.iter()
                    .all(|y| !y.is_nan() || y.to_bits() == 0x7FC0_0000),
                "canonical NaN"
            );
        }
        let batch = Batch::new(config(2, 12, case), 4, &[(0, 70)], painted_raw);
        assert_cpu_equals_reference(&batch, 64);
        let batch = Batch::new(config(2, 12, case), 4, &[(0, 70)], painted_wide);
        assert_cpu_equals_reference(&batch, 64);
    }
}

/// Scores that are equal, all far apart, or infinite: the fold's edges.
#[test]
fn extreme_scores_give_the_same_bits() {
    for case in CASES {
        for scale in [0.0, -0.0, 1e-30, 60.0, 1e20, f32::INFINITY] {
            let paint = |seed, count| painted(seed, count).iter().map(|x| x * scale).collect();
            let batch = Batch::new(config(1, 4, case), 3, &[(0, 66), (130, 2)], paint);
            assert_cpu_equals_reference(&batch, 64);
        }
    }
}

#[test]
fn a_row_does_not_see_keys_it_does_not_admit() {
    for case in CASES {
        let config = config(2, 20, case);
        let clean = Batch::new(config, 6, &[(0, 70)], painted);
        let want = clean.reference(64);
        let width = widths(&config, 6).0;
        for rows in [1, 35, 63, 64, 65, 69] {
            // Everything from row `rows` on is NaN, and so is the other sequence.
            let (q, kv) = widths(&config, 6);
            let row_len = q + 2 * kv;
            let mut dirty = Batch::new(config, 6, &[(0, 70), (5, 9)], |seed, count| match seed {
                1 => {
                    let mut qkv = painted(1, count);
                    qkv[rows * row_len..].fill(f32::NAN);
                    qkv
                }
                _ => vec![f32::NAN; count],
            });
            for_every_cpu(|cpu| {
                let got = dirty.cpu(64, cpu);
                assert_bits_equal("rows before", &got[..rows * width], &want[..rows * width]);
                assert!(
                    got[rows * width..].iter().all(|y| y.is_nan()),
                    "the others are NaN"
                );
            });
            // The control: had the last clean row admitted one key more, it would show.
            dirty.segments[0].start += 1;
            dirty.segments[0].rows = 0..69;
            dirty.segments.truncate(1);
            dirty.caches.truncate(1);
            dirty.qkv.truncate(69 * row_len);
            let late = dirty.reference(64);
            let last = (rows - 1) * width..rows * width;
            if rows < 70 {
                assert!(
                    late[last].iter().all(|y| y.is_nan()),
                    "one key more is noticed"
                );
            }
        }
    }
}

#[test]
fn a_row_is_independent_of_its_batch() {
    let config = config(2, 64, CASES[0]);
    let sequences = [(0, 7), (300, 1), (64, 3), (255, 2), (0, 1)];
    let together = Batch::new(config, 12, &sequences, painted);
    let cpu = Cpu::single();
    let want = together.cpu(256, &cpu);
    let width = widths(&config, 12).0;
    for (segment, cache) in together.segments.iter().zip(&together.caches) {
        for row in segment.rows.clone() {
            let start = segment.start + row - segment.rows.start;
            let row_len = together.qkv.len() / 14;
            let mut out = vec![0.0; width];
            Attention {
                q: Columns {
                    data: &together.qkv[row * row_len..][..row_len],
                    row_len,
                    columns: 0..width,
                },
                segments: &[Segment { rows: 0..1, start }],
                caches: &[cache],
                num_attention_heads: 12,
                split: 256,
            }
            .cpu(&mut out, &cpu)
            .expect("valid arguments");
            assert_bits_equal(format!("row {row}"), &out, &want[row * width..][..width]);
        }
    }
}

#[test]
fn the_callers_rounding_mode_does_not_matter() {
    let batch = Batch::new(config(2, 20, CASES[3]), 4, &[(0, 70)], painted);
    let want = batch.reference(64);
    for threads in [1, 3] {
        let cpu = Cpu::new(threads, jetblock_simd::Level::best()).expect("threads");
        let got = {
            let _guard = fp_env::Guard::new();
            fp_env::disturb_for_tests();
            batch.cpu(64, &cpu)
        };
        assert_bits_equal("disturbed", &got, &want);
    }
}

/// Under scales that are powers of two, f32 and bf16 caches of the numbers that the codes stand for give the same bits.
#[test]
fn a_quantized_cache_equals_a_cache_of_its_values() {
    for (kind, dtype) in CASES {
        if !dtype.is_quantized() {
            continue;
        }
        let config = KvCacheConfig {
            k_scale: 2.0,
            v_scale: 0.25,
            ..config(2, 64, (kind, dtype))
        };
        let mut batch = Batch::new(config, 6, &[(300, 3)], painted);
        let want = assert_cpu_equals_reference(&batch, 128);
        let (mut k, mut v) = (vec![0.0_f32; 303 * 128], vec![0.0_f32; 303 * 128]);
        for i in 0..303 * 2 {
            let (head, position, row) = (i % 2, i / 2, 64 * i..64 * i + 64);
            batch.caches[0].read_key(head, position, &mut k[row.clone()]);
            batch.caches[0].read_value(head, position, &mut v[row]);
        }
        k.iter_mut().for_each(|x| *x *= config.k_scale);
        v.iter_mut().for_each(|x| *x *= config.v_scale);
        for plain in [KvDtype::F32, KvDtype::Bf16] {
            let mut cache = KvCache::new(KvCacheConfig {
                dtype: plain,
                k_scale: 1.0,
                v_scale: 1.0,
                ..config
            })
            .expect("a valid config");
            let part = |x| Columns::whole(x, 128);
            cache.append(part(&k), part(&v), 0..303).expect("fits");
            batch.caches[0] = cache;
            let got = assert_cpu_equals_reference(&batch, 128);
            assert_bits_equal(format!("{dtype} as {plain}"), &got, &want);
        }
        // The control: another scale is another answer.
        let scaled = KvCacheConfig {
            k_scale: 0.75,
            ..config
        };
        let other = Batch::new(scaled, 6, &[(300, 3)], painted).reference(128);
        assert_bits_differ("another scale", &other, &want);
    }
}

/// A variant of the reference with one rule broken, to show that the comparison would notice.
#[test]
fn broken_rules_are_noticed() {
    let batch = Batch::new(config(1, 16, CASES[3]), 1, &[(0, 300)], painted);
    let want = batch.reference(256);
    let t = 299;
    let q = &batch.columns(0..16).row(t)[..16];
    let (mut k, mut v) = (vec![[0.0_f32; 16]; 300], vec![[0.0_f32; 16]; 300]);
    for key in 0..300 {
        batch.caches[0].read_key(0, key, &mut k[key]);
        batch.caches[0].read_value(0, key, &mut v[key]);
    }
    use jetblock_numerics::{fma, math, reduce};
    // One pass over all keys instead of a fold of blocks.
    let s: Vec<f32> = k.iter().map(|k| 0.25 * reduce::dot_f32(q, k)).collect();
    let m = reduce::max(&s);
    let p: Vec<f32> = s.iter().map(|s| math::exp(s - m)).collect();
    let weighted = |d: usize| p.iter().zip(&v).fold(0.0, |o, (&p, v)| fma(p, v[d], o));
    let one_pass: Vec<f32> = (0..16).map(|d| weighted(d) / reduce::sum(&p)).collect();
    assert_bits_differ("no blocks", &one_pass, &want[t * 16..]);
    let close = one_pass
        .iter()
        .zip(&want[t * 16..])
        .all(|(a, b)| (a - b).abs() < 1e-4);
    assert!(close, "and yet it is the same attention");
}

#[test]
fn invalid_arguments_are_named() {
    let batch = Batch::new(config(2, 4, CASES[0]), 4, &[(3, 2), (0, 2)], painted);
    let mut out = vec![0.0; batch.outputs()];
    let error = |split, change: &dyn Fn(&mut Attention), out: &mut [f32]| {
        let error = batch.with(split, |op| {
            let mut op = op.clone();
            change(&mut op);
            op.cpu(out, &Cpu::single()).expect_err("must be refused")
        });
        error.to_string()
    };
    assert_eq!(
        error(96, &|_| {}, &mut out),
        "attention: split is 96, expected 64, 128 or 256"
    );
    assert_eq!(
        error(64, &|op| op.num_attention_heads = 3, &mut out),
        "attention: num_attention_heads is 3, expected a multiple of 2 key/value heads"
    );
    assert!(
        error(64, &|op| op.caches = &[], &mut out).contains("caches has 0 elements, expected 2")
    );
    assert!(error(64, &|op| op.q.columns = 1..16, &mut out).contains("16 columns"));
    let short = &mut out[1..];
    assert!(error(64, &|_| {}, short).contains("y [R, QH * hd] has 63 elements, expected 64"));
    let mut late = Batch::new(config(2, 4, CASES[0]), 4, &[(3, 2)], painted);
    late.segments[0].start = 4;
    let message = late
        .with(64, |op| op.check(&out[..32]))
        .expect_err("too short")
        .to_string();
    assert_eq!(
        message,
        "attention: a cache is 5 tokens, expected at least 6 tokens"
    );
}
