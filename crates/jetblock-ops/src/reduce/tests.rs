use jetblock_numerics::reduce::sum;
use jetblock_testing::*;

use super::*;
use crate::golden;

const ALL: [Reduction; 8] = [
    Reduction::Sum,
    Reduction::SumOfSquares,
    Reduction::Mean,
    Reduction::Var { correction: 0 },
    Reduction::Var { correction: 1 },
    Reduction::Var {
        correction: 1 << 20,
    },
    Reduction::Amax,
    Reduction::Amin,
];

fn check(op: &Reduce, count: usize) -> Vec<f32> {
    let mut want = Guarded::new(count);
    op.reference(&mut want).expect("valid arguments");
    want.assert_intact();
    for_every_cpu(|cpu| {
        let mut out = Guarded::new(count);
        op.cpu(&mut out, cpu).expect("valid arguments");
        let what = format!("{:?}, n = {}, I = {}", op.reduction, op.len, op.inner);
        assert_bits_equal(what, &out, &want);
        out.assert_intact();
    });
    want.to_vec()
}

#[test]
fn cpu_equals_reference() {
    for len in AWKWARD_LENGTHS {
        for inner in [1, 3, 64, 65] {
            for reduction in ALL {
                let x = painted_wide(1, 2 * len * inner);
                check(
                    &Reduce {
                        reduction,
                        x: &x,
                        len,
                        inner,
                    },
                    2 * inner,
                );
            }
        }
    }
    for reduction in ALL {
        let x = painted_special(2, 300 * 40 * 5, 30);
        check(
            &Reduce {
                reduction,
                x: &x,
                len: 300,
                inner: 1,
            },
            200,
        );
        check(
            &Reduce {
                reduction,
                x: &x,
                len: 300,
                inner: 40,
            },
            200,
        );
        // Results of results: more than 1024 blocks.
        let x = painted(3, 1025 * 1024 + 3);
        check(
            &Reduce {
                reduction,
                x: &x,
                len: x.len(),
                inner: 1,
            },
            1,
        );
    }
    let x = painted(4, 2 * (1024 * 1024 + 1));
    let len = x.len() / 2;
    check(
        &Reduce {
            reduction: Reduction::Sum,
            x: &x,
            len,
            inner: 2,
        },
        2,
    );
}

#[test]
fn empty_rows_and_no_rows() {
    let empty = |reduction, out: &mut [f32]| {
        Reduce {
            reduction,
            x: &[],
            len: 0,
            inner: 1,
        }
        .reference(out)
    };
    let mut out = [f32::NAN; 2];
    empty(Reduction::Sum, &mut out).expect("a sum of nothing");
    assert_bits_equal("sums of nothing", &out, &[0.0; 2]);
    for inner in [1, 2] {
        check(
            &Reduce {
                reduction: Reduction::Sum,
                x: &[],
                len: 0,
                inner,
            },
            2,
        );
    }
    let error = empty(Reduction::Amax, &mut out).expect_err("a maximum of nothing");
    assert_eq!(
        error.to_string(),
        "reduce: n is 0, expected at least 1 for Amax"
    );
}

#[test]
fn a_variance_without_freedom() {
    let x = [1.0, 2.0, f32::INFINITY, 3.0];
    let op = Reduce {
        reduction: Reduction::Var { correction: 1 },
        x: &x,
        len: 1,
        inner: 1,
    };
    let y = check(&op, 4);
    assert!(y.iter().all(|y| y.is_nan()), "{y:?}");
    // Finite elements whose mean overflows: every distance is infinite, none is NaN.
    let x = [f32::MAX; 33];
    let y = check(
        &Reduce {
            reduction: Reduction::Var { correction: 0 },
            x: &x,
            len: 33,
            inner: 1,
        },
        1,
    );
    assert_bits_equal("an infinite mean", &y, &[f32::INFINITY]);
}

#[test]
fn other_orders_are_noticed() {
    let x = painted_wide(1, 3000);
    let y = check(
        &Reduce {
            reduction: Reduction::Sum,
            x: &x,
            len: 3000,
            inner: 1,
        },
        1,
    );
    let ascending = x.iter().fold(0.0, |acc, x| acc + x);
    assert_bits_differ("one chain", &[ascending], &y);
    let rows = painted(2, 700);
    let mean = check(
        &Reduce {
            reduction: Reduction::Mean,
            x: &rows,
            len: 7,
            inner: 1,
        },
        100,
    );
    let reciprocal: Vec<f32> = rows.chunks(7).map(|x| sum(x) * (1.0 / 7.0)).collect();
    assert_bits_differ("the sum times 1 / n", &reciprocal, &mean);
}

#[test]
fn golden_v1() {
    let entries = golden::entries("reduce");
    assert!(entries.len() >= 5, "{} entries", entries.len());
    for entry in &entries {
        let (outer, len, inner) = (entry.int("outer"), entry.int("len"), entry.int("inner"));
        let reduction = match entry.text("reduction") {
            "sum" => Reduction::Sum,
            "sum_of_squares" => Reduction::SumOfSquares,
            "mean" => Reduction::Mean,
            "var" => Reduction::Var {
                correction: entry.int("correction"),
            },
            "amax" => Reduction::Amax,
            "amin" => Reduction::Amin,
            other => panic!("reduction {other}"),
        };
        let x = painted_wide(entry.seed(), outer * len * inner);
        entry.check(&check(
            &Reduce {
                reduction,
                x: &x,
                len,
                inner,
            },
            outer * inner,
        ));
    }
}

#[test]
fn errors_name_argument_expected_and_got() {
    let op = Reduce {
        reduction: Reduction::Sum,
        x: &[0.0; 7],
        len: 3,
        inner: 1,
    };
    let message = |op: Reduce| {
        op.reference(&mut [0.0; 2])
            .expect_err("invalid")
            .to_string()
    };
    assert_eq!(
        message(op),
        "reduce: x [O, n, I] has 7 elements, expected 6"
    );
    assert_eq!(
        message(Reduce { inner: 0, ..op }),
        "reduce: row length is 0, expected at least 1"
    );
    assert_eq!(
        message(Reduce { inner: 3, ..op }),
        "reduce: out [O, I] has 2 elements, expected 0"
    );
}
