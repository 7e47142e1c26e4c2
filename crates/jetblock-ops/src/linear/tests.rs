use jetblock_numerics::fma;
use jetblock_numerics::round::{bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16};
use jetblock_simd::{Cpu, fp_env};
use jetblock_tensor::DType;
use jetblock_testing::{
    Guarded, assert_bits_differ, assert_bits_equal, for_every_cpu, painted, painted_raw,
    painted_special, painted_wide,
};

use super::*;

const KINDS: [OperandKind; 2] = [OperandKind::Bf16, OperandKind::F32];
const DTYPES: [DType; 3] = [DType::F32, DType::BF16, DType::F16];

/// A weight as stored in a file, one byte off any alignment, and its exact values.
struct Stored {
    dtype: DType,
    rows: usize,
    k: usize,
    bytes: Vec<u8>,
    values: Vec<f32>,
}

impl Stored {
    fn new(dtype: DType, k: usize, source: &[f32]) -> Stored {
        let mut bytes = vec![0xFF];
        let mut values = Vec::new();
        for &v in source {
            match dtype {
                DType::F32 => (bytes.extend(v.to_le_bytes()), values.push(v)),
                DType::BF16 => (
                    bytes.extend(f32_to_bf16(v).to_le_bytes()),
                    values.push(bf16_to_f32(f32_to_bf16(v))),
                ),
                DType::F16 => (
                    bytes.extend(f32_to_f16(v).to_le_bytes()),
                    values.push(f16_to_f32(f32_to_f16(v))),
                ),
            };
        }
        Stored {
            dtype,
            rows: source.len() / k,
            k,
            bytes,
            values,
        }
    }

    fn rows(&self) -> WeightRows<'_> {
        WeightRows {
            dtype: self.dtype,
            rows: self.rows,
            bytes: &self.bytes[1..],
        }
    }

    fn pack(&self, kind: OperandKind) -> PackedMatrix {
        PackedMatrix::pack(kind, &[self.rows()], self.k, &mut |_, _| ()).expect("the lengths agree")
    }

    fn reference(
        &self,
        kind: OperandKind,
        x: &[f32],
        bias: Option<&[f32]>,
        epilogue: Epilogue,
    ) -> Vec<f32> {
        reference::linear(reference::Linear {
            kind,
            k: self.k,
            x,
            weight: &self.values,
            bias,
            epilogue,
        })
        .expect("the lengths agree")
    }
}

fn power_of_two(exponent: i32) -> f32 {
    f32::from_bits(((127 + exponent) as u32) << 23)
}

fn plain<'a>(x: &'a Prepared, weight: &'a PackedMatrix) -> Linear<'a> {
    Linear {
        x,
        weight,
        bias: None,
        epilogue: Epilogue::None,
    }
}

fn prepare(cpu: &Cpu, kind: OperandKind, x: &[f32], k: usize) -> Prepared {
    Prepared::prepare(cpu, kind, x, k).expect("whole rows")
}

/// Runs on every level and thread count and compares with the reference.
fn check(
    what: &str,
    kind: OperandKind,
    weight: &Stored,
    x: &[f32],
    bias: Option<&[f32]>,
    epilogue: Epilogue,
) {
    let packed = weight.pack(kind);
    let want = weight.reference(kind, x, bias, epilogue);
    for_every_cpu(|cpu| {
        let x = prepare(cpu, kind, x, weight.k);
        let mut out = Guarded::new(want.len());
        linear(
            cpu,
            Linear {
                x: &x,
                weight: &packed,
                bias,
                epilogue,
            },
            &mut out,
        )
        .expect("the lengths agree");
        assert_bits_equal(
            format!("{what}, {kind:?} kind, {} weights", weight.dtype),
            &out,
            &want,
        );
        out.assert_intact();
    });
}

#[test]
fn cpu_equals_reference_for_every_shape() {
    for k in [1, 2, 3, 31, 255, 256, 257, 512, 513, 1000] {
        for n in [1, 63, 64, 65, 97, 128, 129] {
            let (x, w) = (painted(1, 3 * k), painted(2, n * k));
            for kind in KINDS {
                // All three dtypes where the storage format meets an edge, one elsewhere.
                for &dtype in if n == 65 {
                    &DTYPES[..]
                } else {
                    &DTYPES[k % 3..][..1]
                } {
                    let weight = Stored::new(dtype, k, &w);
                    check(
                        &format!("[3, {k}] x [{n}, {k}]"),
                        kind,
                        &weight,
                        &x,
                        None,
                        Epilogue::None,
                    );
                }
            }
        }
    }
}

#[test]
fn row_count_does_not_change_bits() {
    let (n, k, most) = (97, 513, 33);
    let x = painted(3, most * k);
    for kind in KINDS {
        let weight = Stored::new(DType::BF16, k, &painted(4, n * k));
        let packed = weight.pack(kind);
        let want = weight.reference(kind, &x, None, Epilogue::None);
        for_every_cpu(|cpu| {
            for m in 1..=most {
                let prepared = prepare(cpu, kind, &x[..m * k], k);
                let mut out = Guarded::new(m * n);
                linear(cpu, plain(&prepared, &packed), &mut out).expect("the lengths agree");
                assert_bits_equal(format!("{m} rows, {kind:?} kind"), &out, &want[..m * n]);
                out.assert_intact();
            }
        });
    }
}

#[test]
fn many_rows_cross_the_row_chunk() {
    let (m, n, k) = (2 * 256 + 7, 65, 20);
    let (x, bias) = (painted(5, m * k), painted(6, n));
    for kind in KINDS {
        let weight = Stored::new(DType::F32, k, &painted(7, n * k));
        check("519 rows", kind, &weight, &x, Some(&bias), Epilogue::None);
    }
}

#[test]
fn cpu_equals_reference_on_special_values() {
    let (m, n, k) = (7, 70, 300);
    let huge = |seed, len| {
        painted_wide(seed, len)
            .iter()
            .map(|v| v * power_of_two(50))
            .collect::<Vec<_>>()
    };
    let tiny = |seed, len| {
        painted_wide(seed, len)
            .iter()
            .map(|v| v * power_of_two(-70))
            .collect::<Vec<_>>()
    };
    let inputs: [(&str, Vec<f32>, Vec<f32>); 6] = [
        ("wide", painted_wide(8, m * k), painted_wide(9, n * k)),
        ("huge", huge(8, m * k), huge(9, n * k)),
        ("tiny", tiny(8, m * k), tiny(9, n * k)),
        (
            "rarely special",
            painted_special(10, m * k, 2000),
            painted_special(11, n * k, 2000),
        ),
        (
            "special",
            painted_special(10, m * k, 50),
            painted_special(11, n * k, 50),
        ),
        ("raw", painted_raw(12, m * k), painted_raw(13, n * k)),
    ];
    let bias = painted_special(14, n, 4);
    for (what, x, w) in &inputs {
        for kind in KINDS {
            for dtype in DTYPES {
                let weight = Stored::new(dtype, k, w);
                check(what, kind, &weight, x, None, Epilogue::None);
                check(what, kind, &weight, x, Some(&bias), Epilogue::Relu2);
            }
        }
    }
}

#[test]
fn short_chains_at_the_edge_of_overflow() {
    // One fused step keeps what a rounded product would lose: 2^64 * 2^64 - 2^127 is 2^127, not infinity.
    let big = power_of_two;
    let x = [big(63), big(64), big(64), big(-25), 1.0, -1.0];
    let w = [-big(64), big(64), big(64), -big(-25), 1.0, 1.0];
    for kind in KINDS {
        for len in 1..=x.len() {
            let weight = Stored::new(DType::F32, len, &w[..len]);
            check(
                "overflow edge",
                kind,
                &weight,
                &x[..len],
                None,
                Epilogue::None,
            );
        }
    }
}

#[test]
fn totals_start_at_plus_zero() {
    let (x, w) = ([power_of_two(-100); 3], [-power_of_two(-100); 3]);
    let weight = Stored::new(DType::F32, 3, &w);
    let y = weight.reference(OperandKind::F32, &x, None, Epilogue::None);
    assert_bits_equal("a chain that underflows to -0", &y, &[0.0]);
    check(
        "underflow",
        OperandKind::F32,
        &weight,
        &x,
        None,
        Epilogue::None,
    );
}

#[test]
fn bias_and_relu2() {
    let (m, n, k) = (9, 65, 40);
    let (x, bias) = (painted(15, m * k), painted(16, n));
    for kind in KINDS {
        let weight = Stored::new(DType::BF16, k, &painted(17, n * k));
        for epilogue in [Epilogue::None, Epilogue::Relu2] {
            check("with bias", kind, &weight, &x, Some(&bias), epilogue);
            check("without bias", kind, &weight, &x, None, epilogue);
        }
    }
}

/// Variants that the tests above must be able to tell from the contract.
#[test]
fn broken_orders_are_noticed() {
    let (m, n, k) = (3, 65, 600);
    let x = Stored::new(DType::BF16, k, &painted(18, m * k));
    let weight = Stored::new(DType::BF16, k, &painted(19, n * k));
    let every_pair = |dot: &dyn Fn(&[f32], &[f32]) -> f32| -> Vec<f32> {
        let rows = x.values.chunks(k);
        rows.flat_map(|x| weight.values.chunks(k).map(move |w| dot(x, w)))
            .collect()
    };
    let chain = |x: &[f32], w: &[f32]| x.iter().zip(w).fold(0.0, |p, (&a, &b)| fma(a, b, p));
    let continuous = every_pair(&chain);
    let even_first = every_pair(&|x, w| {
        x.chunks(256)
            .zip(w.chunks(256))
            .fold(0.0, |tot, (x, w)| tot + chain(x, w))
    });
    let blocks_of_128 = every_pair(&|x, w| {
        x.chunks(128)
            .zip(w.chunks(128))
            .fold(0.0, |tot, (x, w)| tot + chain(x, w))
    });
    let want = weight.reference(OperandKind::Bf16, &x.values, None, Epilogue::None);
    assert_bits_differ("even element of a pair first", &even_first, &want);
    let want = weight.reference(OperandKind::F32, &x.values, None, Epilogue::None);
    assert_bits_equal(
        "the chain of this test is the contract's",
        &even_first,
        &want,
    );
    assert_bits_differ("one chain without blocks", &continuous, &want);
    assert_bits_differ("blocks of 128", &blocks_of_128, &want);
}

#[test]
fn parts_stack_along_n() {
    let k = 77;
    let parts = [
        (DType::BF16, 40),
        (DType::BF16, 0),
        (DType::BF16, 100),
        (DType::BF16, 3),
    ];
    for mixed in [false, true] {
        let stored: Vec<Stored> = parts
            .iter()
            .enumerate()
            .map(|(i, &(dtype, rows))| {
                let dtype = if mixed { DTYPES[i % 3] } else { dtype };
                Stored::new(dtype, k, &painted(20 + i as u32, rows * k))
            })
            .collect();
        let rows: Vec<_> = stored.iter().map(Stored::rows).collect();
        let all = Stored {
            dtype: DType::F32,
            rows: 143,
            k,
            bytes: Vec::new(),
            values: stored.iter().flat_map(|part| part.values.clone()).collect(),
        };
        let x = painted(30, 2 * k);
        for kind in KINDS {
            let mut done = Vec::new();
            let packed =
                PackedMatrix::pack(kind, &rows, k, &mut |part, rows| done.push((part, rows)))
                    .expect("the lengths agree");
            assert_eq!(done, [(0, 40), (2, 24), (2, 88), (2, 100), (3, 3)]);
            assert_eq!((packed.n(), packed.k(), packed.kind()), (143, k, kind));
            let word = if kind == OperandKind::F32 && mixed {
                4
            } else {
                2
            };
            let steps = if kind == OperandKind::Bf16 { k + 1 } else { k };
            assert_eq!(packed.bytes(), 3 * PANEL * steps * word);
            let want = all.reference(kind, &x, None, Epilogue::None);
            for_every_cpu(|cpu| {
                let mut out = vec![0.0; 2 * 143];
                linear(cpu, plain(&prepare(cpu, kind, &x, k), &packed), &mut out)
                    .expect("the lengths agree");
                assert_bits_equal(format!("stacked parts, {kind:?} kind"), &out, &want);
            });
        }
    }
}

#[test]
fn grouped_jobs_read_their_own_rows() {
    let k = 130;
    let x = painted(31, 20 * k);
    let experts: Vec<_> = (0..5)
        .map(|i| Stored::new(DTYPES[i % 3], k, &painted(32 + i as u32, (30 + 40 * i) * k)))
        .collect();
    let lists: [&[u32]; 4] = [&[3, 3, 19, 0], &[], &[7], &[5, 4, 3, 2, 1, 0, 9, 9, 9]];
    let row = |r: u32| x[r as usize * k..][..k].to_vec();
    for kind in KINDS {
        let packed: Vec<_> = experts.iter().map(|e| e.pack(kind)).collect();
        for_every_cpu(|cpu| {
            let prepared = prepare(cpu, kind, &x, k);
            let rows = lists
                .map(Rows::List)
                .into_iter()
                .chain([Rows::Range(4..20)]);
            let rows: Vec<_> = rows.collect();
            let mut outs: Vec<_> = rows
                .iter()
                .zip(&packed)
                .map(|(rows, weight)| Guarded::new(rows.len() * weight.n()))
                .collect();
            let jobs = rows
                .iter()
                .zip(&packed)
                .zip(&mut outs)
                .map(|((rows, weight), out)| LinearJob {
                    x: &prepared,
                    rows: rows.clone(),
                    weight,
                    bias: None,
                    epilogue: Epilogue::Relu2,
                    out,
                });
            grouped_linear(cpu, jobs.collect()).expect("the lengths agree");
            for (i, out) in outs.iter().enumerate() {
                let x: Vec<f32> = match &rows[i] {
                    Rows::List(list) => list.iter().flat_map(|&r| row(r)).collect(),
                    Rows::Range(range) => x[range.start * k..range.end * k].to_vec(),
                };
                let want = experts[i].reference(kind, &x, None, Epilogue::Relu2);
                assert_bits_equal(format!("job {i}, {kind:?} kind"), out, &want);
                out.assert_intact();
            }
        });
    }
}

#[test]
fn row_is_independent_of_batch() {
    let (n, k) = (100, 300);
    let x = painted(40, k);
    for kind in KINDS {
        let packed = Stored::new(DType::BF16, k, &painted(41, n * k)).pack(kind);
        for_every_cpu(|cpu| {
            let mut alone = vec![0.0; n];
            linear(cpu, plain(&prepare(cpu, kind, &x, k), &packed), &mut alone)
                .expect("the lengths agree");
            for m in [2, 5, 6, 7, 13] {
                for position in [0, m / 2, m - 1] {
                    let mut batch = vec![f32::NAN; m * k];
                    batch[position * k..][..k].copy_from_slice(&x);
                    let mut out = vec![0.0; m * n];
                    linear(
                        cpu,
                        plain(&prepare(cpu, kind, &batch, k), &packed),
                        &mut out,
                    )
                    .expect("the lengths agree");
                    assert_bits_equal(
                        format!("row {position} of {m}"),
                        &out[position * n..][..n],
                        &alone,
                    );
                    assert!(out.iter().filter(|y| y.is_nan()).count() == (m - 1) * n);
                }
            }
        });
    }
}

#[test]
fn reused_buffers_forget_what_they_held() {
    for kind in KINDS {
        let weight = Stored::new(DType::F32, 33, &painted(42, 10 * 33));
        let x = painted(43, 2 * 33);
        let want = weight.reference(kind, &x, None, Epilogue::None);
        let cpu = Cpu::single();
        let mut prepared = prepare(&cpu, kind, &vec![f32::NAN; 40 * 50], 50);
        prepared.prepare_into(&cpu, &x, 33).expect("whole rows");
        let mut out = vec![0.0; 2 * 10];
        linear(&cpu, plain(&prepared, &weight.pack(kind)), &mut out).expect("the lengths agree");
        assert_bits_equal("after a larger matrix", &out, &want);
    }
}

#[test]
fn callers_floating_point_mode_does_not_matter() {
    let (n, k) = (70, 40);
    let tiny: Vec<f32> = painted(44, k)
        .iter()
        .map(|v| v * power_of_two(-100))
        .collect();
    let weight = Stored::new(DType::F32, k, &painted_wide(45, n * k));
    let (kind, packed) = (OperandKind::F32, weight.pack(OperandKind::F32));
    let want = weight.reference(kind, &tiny, None, Epilogue::None);
    assert!(want.iter().any(|y| y.abs() < power_of_two(-80)));
    std::thread::spawn(move || {
        let cpu = Cpu::single();
        fp_env::disturb_for_tests();
        let mut out = vec![0.0; n];
        linear(
            &cpu,
            plain(&prepare(&cpu, kind, &tiny, k), &packed),
            &mut out,
        )
        .expect("the lengths agree");
        let _guard = fp_env::Guard::new();
        assert_bits_equal("round-up and flush-to-zero outside", &out, &want);
    })
    .join()
    .expect("the thread does not panic");
}

#[test]
fn rows_read_back() {
    for k in [1, 2, 7, 64] {
        for dtype in DTYPES {
            let weight = Stored::new(dtype, k, &painted(46, 66 * k));
            for kind in KINDS {
                let packed = weight.pack(kind);
                let mut row = vec![0.0; k];
                for n in [0, 1, 63, 64, 65] {
                    packed.row_into(n, &mut row).expect("the row exists");
                    let mut want = weight.values[n * k..][..k].to_vec();
                    if kind == OperandKind::Bf16 {
                        want.iter_mut()
                            .for_each(|v| *v = bf16_to_f32(f32_to_bf16(*v)));
                    }
                    assert_bits_equal(format!("row {n}"), &row, &want);
                }
                assert!(packed.row_into(66, &mut row).is_err());
                assert!(packed.row_into(0, &mut vec![0.0; k + 1]).is_err());
            }
        }
    }
}

#[test]
fn wrong_arguments_are_errors() {
    let cpu = Cpu::single();
    let message =
        |result: Result<(), OpError>| result.expect_err("the arguments are wrong").to_string();
    let bytes = [0_u8; 4 * 6];
    let part = |rows, bytes| WeightRows {
        dtype: DType::F32,
        rows,
        bytes,
    };
    let pack = |rows, k, bytes| {
        PackedMatrix::pack(OperandKind::F32, &[part(rows, bytes)], k, &mut |_, _| ())
    };
    assert_eq!(
        message(pack(2, 3, &bytes[1..]).map(drop)),
        "linear: bytes of weight [N, K] has 23 elements, expected 24"
    );
    assert!(pack(usize::MAX, 3, &bytes[..]).is_err());
    assert!(pack(2, usize::MAX, &bytes[..]).is_err());
    assert!(pack(2, 0, &[]).is_err());
    let weight = pack(2, 3, &bytes).expect("the lengths agree");
    let empty = pack(0, 3, &[]).expect("no outputs are allowed");
    assert!(Prepared::prepare(&cpu, OperandKind::F32, &[0.0; 7], 3).is_err());
    assert!(Prepared::prepare(&cpu, OperandKind::F32, &[0.0; 7], 0).is_err());
    let x = prepare(&cpu, OperandKind::F32, &[0.0; 6], 3);
    let wide = prepare(&cpu, OperandKind::F32, &[0.0; 8], 4);
    let pairs = prepare(&cpu, OperandKind::Bf16, &[0.0; 6], 3);
    let none = prepare(&cpu, OperandKind::F32, &[], 3);
    let mut out = [0.0; 4];
    assert_eq!(
        message(linear(&cpu, plain(&x, &weight), &mut out[..3])),
        "linear: out [M, N] has 3 elements, expected 4"
    );
    assert_eq!(
        message(linear(&cpu, plain(&wide, &weight), &mut out)),
        "linear: row of x [K] has 4 elements, expected 3"
    );
    assert_eq!(
        message(linear(&cpu, plain(&pairs, &weight), &mut out)),
        "linear: operand kind of x is Bf16, expected F32 as in the weight"
    );
    assert!(
        linear(
            &cpu,
            Linear {
                bias: Some(&[0.0]),
                ..plain(&x, &weight)
            },
            &mut out
        )
        .is_err()
    );
    let mut of_rows = |rows| {
        let out = &mut out[..];
        grouped_linear(
            &cpu,
            vec![LinearJob {
                x: &x,
                rows,
                weight: &weight,
                bias: None,
                epilogue: Epilogue::None,
                out,
            }],
        )
    };
    assert_eq!(
        message(of_rows(Rows::List(&[1, 2]))),
        "linear: row index is 2, expected below 2, the rows of x"
    );
    assert!(of_rows(Rows::Range(1..3)).is_err());
    assert!(of_rows(Rows::Range(0..1)).is_err());
    assert_eq!(linear(&cpu, plain(&none, &weight), &mut []), Ok(()));
    assert_eq!(linear(&cpu, plain(&x, &empty), &mut []), Ok(()));
    assert_eq!(linear(&cpu, plain(&x, &weight), &mut out), Ok(()));
}

#[test]
fn packed_matrices_cross_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<PackedMatrix>();
    shared::<Prepared>();
}
