use jetblock_numerics::paint::hash;
use jetblock_simd::Cpu;
use jetblock_testing::*;

use super::*;
use crate::floats::Codes;
use crate::golden;

const KINDS: [OperandKind; 2] = [OperandKind::Bf16, OperandKind::F32];

/// Painted queries, keys and values.
struct Case {
    q: Vec<f32>,
    k: Vec<f32>,
    v: Vec<f32>,
    batch: usize,
    heads: usize,
    kv_heads: usize,
    queries: usize,
    keys: usize,
    head_dim: usize,
    value_dim: usize,
}

impl Case {
    fn new(
        seed: u32,
        [batch, heads, kv_heads, queries, keys, head_dim, value_dim]: [usize; 7],
    ) -> Case {
        Case {
            q: painted(seed, batch * heads * queries * head_dim),
            k: painted(seed + 1, batch * kv_heads * keys * head_dim),
            v: painted(seed + 2, batch * kv_heads * keys * value_dim),
            batch,
            heads,
            kv_heads,
            queries,
            keys,
            head_dim,
            value_dim,
        }
    }

    fn op<'a>(&'a self, kind: OperandKind, mask: Mask<'a>) -> Sdpa<'a> {
        Sdpa {
            kind,
            q: Heads::contiguous(&self.q, [self.heads, self.queries, self.head_dim]),
            k: Heads::contiguous(&self.k, [self.kv_heads, self.keys, self.head_dim]),
            v: Heads::contiguous(&self.v, [self.kv_heads, self.keys, self.value_dim]),
            mask,
            scale: None,
            batch: self.batch,
            heads: self.heads,
            kv_heads: self.kv_heads,
            queries: self.queries,
            keys: self.keys,
            head_dim: self.head_dim,
            value_dim: self.value_dim,
        }
    }

    fn extents(&self, [batch, heads, rows]: [bool; 3]) -> [usize; 3] {
        let pick = |own, extent| if own { extent } else { 1 };
        [
            pick(batch, self.batch),
            pick(heads, self.heads),
            pick(rows, self.queries),
        ]
    }
}

fn check(op: &Sdpa) -> Vec<f32> {
    let count = op.batch * op.heads * op.queries * op.value_dim;
    let mut want = Guarded::new(count);
    op.reference(&mut want).expect("valid arguments");
    want.assert_intact();
    for_every_cpu(|cpu| {
        let mut out = Guarded::new(count);
        op.cpu((&mut out[..]).into(), cpu).expect("valid arguments");
        let what = format!(
            "{:?}, {} queries, {} keys of {}",
            op.kind, op.queries, op.keys, op.head_dim
        );
        assert_bits_equal(what, &out, &want);
        out.assert_intact();
    });
    want.to_vec()
}

/// A pattern in which every 7th query admits nothing of the second block, every 11th nothing at all.
fn pattern(count: usize, keys: usize) -> Vec<bool> {
    (0..count * keys)
        .map(|i| {
            let (row, j) = (i / keys, i % keys);
            row % 11 != 3 && !(row % 7 == 2 && j >= 256) && !hash(9, i as u32).is_multiple_of(3)
        })
        .collect()
}

#[test]
fn cpu_equals_reference() {
    for (i, shape) in [
        [1, 1, 1, 1, 1, 1, 1],
        [2, 2, 1, 7, 33, 17, 5],
        [1, 4, 2, 130, 77, 64, 64],
        [1, 1, 1, 40, 300, 80, 96],
        [1, 2, 2, 3, 1030, 31, 130],
        [1, 1, 1, 5, 64, 512, 7],
        // More than a task's queries, over two heads.
        [1, 2, 1, 300, 260, 16, 16],
    ]
    .into_iter()
    .enumerate()
    {
        let case = Case::new(10 * i as u32, shape);
        for kind in KINDS {
            check(&case.op(kind, Mask::None));
            check(&case.op(kind, Mask::Causal));
            check(&Sdpa {
                scale: Some(0.3),
                ..case.op(kind, Mask::None)
            });
            for own in [
                [true; 3],
                [false, true, true],
                [true, false, false],
                [false; 3],
            ] {
                let [batch, heads, rows] = case.extents(own);
                let admitted = pattern(batch * heads * rows, case.keys);
                let data = &admitted[..];
                check(&case.op(
                    kind,
                    Mask::Admitted(Broadcast {
                        data,
                        batch,
                        heads,
                        rows,
                    }),
                ));
                let bias: Vec<f32> = painted(5, data.len())
                    .iter()
                    .zip(data)
                    .map(|(&x, &yes)| if yes { x } else { f32::NEG_INFINITY })
                    .collect();
                let data = &bias[..];
                check(&case.op(
                    kind,
                    Mask::Bias(Broadcast {
                        data,
                        batch,
                        heads,
                        rows,
                    }),
                ));
            }
        }
    }
}

#[test]
fn a_row_without_keys_is_zero() {
    let case = Case::new(1, [1, 2, 1, 4, 300, 8, 8]);
    let (data, extents) = (vec![false; 300], case.extents([false; 3]));
    let [batch, heads, rows] = extents;
    let mask = Mask::Admitted(Broadcast {
        data: &data,
        batch,
        heads,
        rows,
    });
    assert_bits_equal(
        "no keys admitted",
        &check(&case.op(OperandKind::F32, mask)),
        &[0.0; 64],
    );
    let empty = Case::new(1, [1, 2, 1, 4, 0, 8, 8]);
    assert_bits_equal(
        "no keys",
        &check(&empty.op(OperandKind::F32, Mask::None)),
        &[0.0; 64],
    );
}

#[test]
fn what_is_left_out_does_not_enter() {
    let mut case = Case::new(1, [1, 1, 1, 6, 300, 16, 70]);
    let clean = check(&case.op(OperandKind::F32, Mask::Causal));
    // Keys and values that no query admits.
    case.k[6 * 16..].fill(f32::NAN);
    case.v[6 * 70..].fill(f32::INFINITY);
    let y = check(&case.op(OperandKind::F32, Mask::Causal));
    assert_bits_equal("poisoned keys behind the last query", &y, &clean);
    // A value that only later queries admit.
    case.v[4 * 70] = f32::INFINITY;
    let y = check(&case.op(OperandKind::F32, Mask::Causal));
    assert_bits_equal("before the poisoned value", &y[..4 * 70], &clean[..4 * 70]);
    assert!(y[4 * 70].is_infinite(), "the poisoned value is admitted");
}

#[test]
fn special_values() {
    for every in [7, 60] {
        let mut case = Case::new(1, [1, 2, 2, 20, 300, 24, 30]);
        case.q = painted_special(7, case.q.len(), every * 20);
        case.k = painted_special(8, case.k.len(), every * 20);
        case.v = painted_special(9, case.v.len(), every);
        let data = pattern(20, 300);
        let [batch, heads, rows] = case.extents([false, false, true]);
        for kind in KINDS {
            check(&case.op(kind, Mask::None));
            check(&case.op(
                kind,
                Mask::Admitted(Broadcast {
                    data: &data,
                    batch,
                    heads,
                    rows,
                }),
            ));
        }
    }
}

/// Heads that lie as `[B, T, H, K]` in arrays of two bytes an element, as most models make them.
#[test]
fn heads_may_lie_in_any_order_and_dtype() {
    for (seed, shape) in [
        (1, [2, 4, 2, 70, 300, 24, 40]),
        (2, [1, 2, 2, 1, 77, 40, 40]),
    ] {
        let [batch, heads, kv_heads, queries, keys, head_dim, value_dim] = shape;
        let case = Case::new(seed, shape);
        let turned = |x: &[f32], [h, t, k]: [usize; 3]| -> Vec<f32> {
            let from = |i: usize| {
                let (d, h_i, t_i, b) = (i % k, i / k % h, i / k / h % t, i / k / h / t);
                x[((b * h + h_i) * t + t_i) * k + d]
            };
            (0..x.len()).map(from).collect()
        };
        let shapes = [
            [heads, queries, head_dim],
            [kv_heads, keys, head_dim],
            [kv_heads, keys, value_dim],
        ];
        let arrays = [&case.q, &case.k, &case.v];
        for dtype in 0..2 {
            let codes: Vec<Codes> = arrays
                .iter()
                .map(|x| Codes::of(x).into_iter().nth(dtype).expect("two dtypes"))
                .collect();
            let plain = Case {
                q: codes[0].values(),
                k: codes[1].values(),
                v: codes[2].values(),
                ..Case::new(seed, shape)
            };
            let lying: Vec<Codes> = (0..3)
                .map(|i| codes[i].with(&turned(&codes[i].values(), shapes[i])))
                .collect();
            let at = |i: usize| {
                let [h, t, k] = shapes[i];
                Heads {
                    values: lying[i].floats(),
                    strides: [h * t * k, k, h * k],
                }
            };
            for kind in KINDS {
                let op = plain.op(kind, Mask::Causal);
                let mut want = vec![0.0; batch * heads * queries * value_dim];
                op.reference(&mut want).expect("valid arguments");
                let (q, k, v) = (at(0), at(1), at(2));
                let op = Sdpa { q, k, v, ..op };
                for_every_cpu(|cpu| {
                    codes[0].assert_written("turned", &want, |out| op.cpu(out, cpu));
                });
            }
        }
    }
}

#[test]
fn a_row_does_not_depend_on_its_neighbours() {
    let case = Case::new(3, [1, 1, 1, 200, 400, 32, 32]);
    let all = check(&case.op(OperandKind::Bf16, Mask::None));
    let alone = Sdpa {
        q: Heads::contiguous(&case.q[150 * 32..][..32], [1, 1, 32]),
        queries: 1,
        ..case.op(OperandKind::Bf16, Mask::None)
    };
    assert_bits_equal("query 150", &check(&alone), &all[150 * 32..][..32]);
    let other = Sdpa {
        scale: Some(0.25),
        ..alone
    };
    assert_bits_differ("another scale", &check(&other), &all[150 * 32..][..32]);
}

#[test]
fn golden_v1() {
    let entries = golden::entries("sdpa");
    assert!(entries.len() >= 4, "{} entries", entries.len());
    for entry in &entries {
        let case = Case::new(entry.seed(), entry.ints("shape"));
        let [batch, heads, rows] = case.extents([true; 3]);
        let count = batch * heads * rows;
        let admitted = pattern(count, case.keys);
        let bias = painted(entry.seed() + 3, admitted.len());
        let mask = match entry.text("mask") {
            "none" => Mask::None,
            "causal" => Mask::Causal,
            "bool" => Mask::Admitted(Broadcast {
                data: &admitted,
                batch,
                heads,
                rows,
            }),
            "bias" => Mask::Bias(Broadcast {
                data: &bias,
                batch,
                heads,
                rows,
            }),
            other => panic!("mask {other}"),
        };
        entry.check(&check(&case.op(entry.kind(), mask)));
    }
}

#[test]
fn errors_name_argument_expected_and_got() {
    let case = Case::new(1, [1, 2, 1, 4, 3, 8, 8]);
    let message = |op: Sdpa, out: usize| {
        let error = op.cpu((&mut vec![0.0; out][..]).into(), &Cpu::single());
        error.expect_err("invalid").to_string()
    };
    let op = case.op(OperandKind::F32, Mask::None);
    assert_eq!(
        message(op, 63),
        "sdpa: out [B, QH, T, V] has 63 elements, expected 64"
    );
    assert_eq!(
        message(Sdpa { kv_heads: 0, ..op }, 64),
        "sdpa: key/value heads is 0, expected a positive divisor of 2 query heads"
    );
    assert_eq!(
        message(
            Sdpa {
                k: Heads::contiguous(&case.k[..23], [1, 3, 8]),
                ..op
            },
            64
        ),
        "sdpa: k [B, KVH, S, K] is 23, expected at least 24 elements"
    );
    let mask = |rows, data| {
        Mask::Admitted(Broadcast {
            data,
            batch: 1,
            heads: 1,
            rows,
        })
    };
    assert_eq!(
        message(
            Sdpa {
                mask: mask(3, &[true; 9]),
                ..op
            },
            64
        ),
        "sdpa: T of the mask is 3, expected 1 or 4"
    );
    assert_eq!(
        message(
            Sdpa {
                mask: mask(4, &[true; 9]),
                ..op
            },
            64
        ),
        "sdpa: mask [B, QH, T, S] has 9 elements, expected 12"
    );
}
