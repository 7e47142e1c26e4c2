use jetblock_numerics::reduce;
use jetblock_simd::Cpu;
use jetblock_testing::*;

use super::*;
use crate::floats::Codes;
use crate::golden;

const KINDS: [OperandKind; 2] = [OperandKind::Bf16, OperandKind::F32];

fn check(op: &Matmul) -> Vec<f32> {
    let count = op.batch * op.m * op.n;
    let mut want = Guarded::new(count);
    op.reference(&mut want).expect("valid arguments");
    want.assert_intact();
    let (a, b) = (Codes::of(&op.a.to_vec()), Codes::of(&op.b.to_vec()));
    let stored: Vec<_> = a
        .into_iter()
        .zip(b)
        .map(|(a, b)| {
            let mut want = vec![0.0; count];
            let (values, more) = (a.values(), b.values());
            let op = Matmul {
                a: (&values).into(),
                b: (&more).into(),
                ..*op
            };
            op.reference(&mut want).expect("valid arguments");
            (a, b, want)
        })
        .collect();
    for_every_cpu(|cpu| {
        let mut out = Guarded::new(count);
        op.cpu((&mut out[..]).into(), cpu).expect("valid arguments");
        let Matmul {
            kind,
            layout,
            batch,
            m,
            k,
            n,
            ..
        } = *op;
        let what = format!("{kind:?} {layout:?} {batch} x [{m}, {k}, {n}]");
        assert_bits_equal(&what, &out, &want);
        out.assert_intact();
        for (a, b, want) in &stored {
            let op = Matmul {
                a: a.floats(),
                b: b.floats(),
                ..*op
            };
            a.assert_written(&what, want, |out| op.cpu(out, cpu));
        }
    });
    want.to_vec()
}

#[test]
fn cpu_equals_reference() {
    for (m, k, n) in [
        (1, 1, 1),
        (3, 31, 63),
        (7, 257, 64),
        (2, 512, 65),
        (65, 33, 130),
        (800, 10, 70),
    ] {
        for (batch, shared_a, shared_b) in [(1, false, false), (3, false, true), (3, true, false)] {
            let count = |shared, len| if shared { len } else { batch * len };
            for (a, b) in [
                (
                    painted(1, count(shared_a, m * k)),
                    painted(2, count(shared_b, k * n)),
                ),
                (
                    painted_special(3, count(shared_a, m * k), 90),
                    painted_wide(4, count(shared_b, k * n)),
                ),
            ] {
                for layout in [Layout::Plain, Layout::Turned] {
                    for kind in KINDS {
                        check(&Matmul {
                            kind,
                            a: (&a).into(),
                            b: (&b).into(),
                            layout,
                            batch,
                            m,
                            k,
                            n,
                        });
                    }
                }
            }
        }
    }
    let (a, b) = (painted(5, 100 * 300), painted(6, 300 * 400));
    for layout in [Layout::Plain, Layout::Turned] {
        check(&Matmul {
            kind: OperandKind::F32,
            a: (&a).into(),
            b: (&b).into(),
            layout,
            batch: 1,
            m: 100,
            k: 300,
            n: 400,
        });
    }
    // Rows so long that a task has few of them.
    let (long, column) = (painted(7, 130 * 8200), painted(8, 8200 * 2));
    check(&Matmul {
        kind: OperandKind::Bf16,
        a: (&long).into(),
        b: (&column).into(),
        layout: Layout::Plain,
        batch: 1,
        m: 130,
        k: 8200,
        n: 2,
    });
    check(&Matmul {
        kind: OperandKind::F32,
        a: Floats::F32(&[]),
        b: Floats::F32(&[]),
        layout: Layout::Plain,
        batch: 2,
        m: 3,
        k: 0,
        n: 4,
    });
    check(&Matmul {
        kind: OperandKind::F32,
        a: Floats::F32(&[]),
        b: (&a).into(),
        layout: Layout::Plain,
        batch: 1,
        m: 0,
        k: 300,
        n: 100,
    });
}

#[test]
fn a_row_does_not_depend_on_its_batch() {
    let (m, k, n) = (5, 300, 70);
    let (a, b) = (painted(1, 2 * m * k), painted(2, 2 * k * n));
    let op = Matmul {
        kind: OperandKind::Bf16,
        a: (&a).into(),
        b: (&b).into(),
        layout: Layout::Plain,
        batch: 2,
        m,
        k,
        n,
    };
    let all = check(&op);
    let row = check(&Matmul {
        a: (&a[(m + 2) * k..][..k]).into(),
        b: (&b[k * n..]).into(),
        batch: 1,
        m: 1,
        ..op
    });
    assert_bits_equal(
        "row 2 of the second product",
        &row,
        &all[(m + 2) * n..][..n],
    );
    assert_bits_differ("its neighbour", &row, &all[(m + 1) * n..][..n]);
}

#[test]
fn other_orders_are_noticed() {
    let (a, b) = (painted(1, 600), painted(2, 600));
    let op = Matmul {
        kind: OperandKind::F32,
        a: (&a).into(),
        b: (&b).into(),
        layout: Layout::Turned,
        batch: 1,
        m: 1,
        k: 600,
        n: 1,
    };
    let products: Vec<f32> = a.iter().zip(&b).map(|(a, b)| a * b).collect();
    assert_bits_differ(
        "a row reduction of products",
        &[reduce::sum(&products)],
        &check(&op),
    );
}

#[test]
fn golden_v1() {
    let entries = golden::entries("matmul");
    assert!(entries.len() >= 2, "{} entries", entries.len());
    for entry in &entries {
        let [batch, m, k, n] = entry.ints("shape");
        let (a, b) = (
            painted(entry.seed(), batch * m * k),
            painted(entry.seed() + 1, batch * k * n),
        );
        entry.check(&check(&Matmul {
            kind: entry.kind(),
            a: (&a).into(),
            b: (&b).into(),
            layout: Layout::Plain,
            batch,
            m,
            k,
            n,
        }));
    }
}

#[test]
fn errors_name_argument_expected_and_got() {
    let op = Matmul {
        kind: OperandKind::F32,
        a: Floats::F32(&[0.0; 12]),
        b: Floats::F32(&[0.0; 20]),
        layout: Layout::Plain,
        batch: 2,
        m: 3,
        k: 2,
        n: 5,
    };
    op.check(30).expect("valid");
    let message = |op: Matmul, out: usize| {
        let error = op.cpu((&mut vec![0.0; out][..]).into(), &Cpu::single());
        error.expect_err("invalid").to_string()
    };
    assert_eq!(
        message(op, 29),
        "matmul: out [B, M, N] has 29 elements, expected 30"
    );
    assert_eq!(
        message(Matmul { batch: 3, ..op }, 45),
        "matmul: a [B, M, K] has 12 elements, expected 18"
    );
    assert_eq!(
        message(
            Matmul {
                b: Floats::F32(&[0.0; 11]),
                ..op
            },
            30
        ),
        "matmul: b [B, K, N] has 11 elements, expected 20"
    );
}
