//! Exempt from assert_bits_equal: results are indices, which are compared as integers.

use jetblock_testing::*;

use super::*;
use crate::golden;

fn check(x: &[f32], row_len: usize, largest: bool) -> Vec<i64> {
    let op = ArgMax {
        x,
        row_len,
        largest,
    };
    let mut want = vec![-1; x.len() / row_len];
    op.reference(&mut want).expect("valid arguments");
    for_every_cpu(|cpu| {
        let mut out = vec![-1; want.len()];
        op.cpu(&mut out, cpu).expect("valid arguments");
        assert_eq!(out, want, "n = {row_len}, largest {largest}");
    });
    want
}

#[test]
fn cpu_equals_reference() {
    for row_len in AWKWARD_LENGTHS {
        for largest in [true, false] {
            check(&painted(1, 3 * row_len), row_len, largest);
            check(&painted_special(2, 40 * row_len, 20), row_len, largest);
            // Few values, so that there are ties.
            let ties: Vec<f32> = painted(3, 5 * row_len)
                .iter()
                .map(|x| (x * 4.0).trunc())
                .collect();
            check(&ties, row_len, largest);
        }
    }
}

#[test]
fn ties_zeros_and_nan() {
    let nan = f32::NAN;
    for (x, most, least) in [
        (vec![1.0, 3.0, 3.0, 1.0], 1, 0),
        (vec![-0.0, 0.0, -0.0], 0, 0),
        (vec![0.0, nan, f32::INFINITY, nan], 1, 1),
        (vec![f32::NEG_INFINITY; 3], 0, 0),
    ] {
        assert_eq!(check(&x, x.len(), true), [most], "{x:?}");
        assert_eq!(check(&x, x.len(), false), [least], "{x:?}");
    }
    // A control: the last of equals is another index.
    assert_ne!(check(&[1.0, 3.0, 3.0], 3, true), [2]);
}

#[test]
fn golden_v1() {
    let entries = golden::entries("argmax");
    assert!(entries.len() >= 2, "{} entries", entries.len());
    for entry in &entries {
        let (rows, row_len) = (entry.int("rows"), entry.int("row_len"));
        let x: Vec<f32> = painted(entry.seed(), rows * row_len)
            .iter()
            .map(|x| (x * 8.0).trunc())
            .collect();
        let y = check(&x, row_len, entry.int("largest") == 1);
        entry.check(&y.iter().map(|&y| y as f32).collect::<Vec<_>>());
    }
}

#[test]
fn errors_name_argument_expected_and_got() {
    let op = ArgMax {
        x: &[0.0; 7],
        row_len: 3,
        largest: true,
    };
    let message = |op: ArgMax| op.reference(&mut [0; 2]).expect_err("invalid").to_string();
    assert_eq!(message(op), "argmax: x [R, n] has 7 elements, expected 6");
    assert_eq!(
        message(ArgMax { row_len: 7, ..op }),
        "argmax: out [R] has 2 elements, expected 1"
    );
    assert_eq!(
        message(ArgMax { row_len: 0, ..op }),
        "argmax: row length is 0, expected at least 1"
    );
}
