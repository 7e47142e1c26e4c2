use jetblock_testing::*;

use super::*;
use crate::golden;

fn check(op: &Sort) -> (Vec<f32>, Vec<i64>) {
    let count = op.x.len() / op.row_len * op.k;
    let (mut values, mut indices) = (Guarded::new(count), vec![-1; count]);
    op.reference(&mut values, &mut indices)
        .expect("valid arguments");
    values.assert_intact();
    for_every_cpu(|cpu| {
        let (mut got, mut got_indices) = (Guarded::new(count), vec![-1; count]);
        op.cpu(&mut got, &mut got_indices, cpu)
            .expect("valid arguments");
        let what = format!(
            "n = {}, k = {}, descending {}",
            op.row_len, op.k, op.descending
        );
        assert_eq!(got_indices, indices, "{what}");
        assert_bits_equal(what, &got, &values);
        got.assert_intact();
    });
    (values.to_vec(), indices)
}

#[test]
fn cpu_equals_reference() {
    for row_len in AWKWARD_LENGTHS {
        for k in [1, row_len / 2, row_len] {
            for descending in [true, false] {
                for x in [
                    painted_raw(1, 2 * row_len),
                    painted_special(2, 2 * row_len, 3),
                    painted(3, 9 * row_len)
                        .iter()
                        .map(|x| (x * 3.0).trunc())
                        .collect(),
                ] {
                    check(&Sort {
                        x: &x,
                        row_len,
                        k: k.max(1),
                        descending,
                    });
                }
            }
        }
    }
}

#[test]
fn ties_zeros_and_nan() {
    let (nan, inf) = (f32::from_bits(0xFFC0_1234), f32::INFINITY);
    let x = [0.0, nan, -0.0, inf, 1.0, nan, 0.0];
    let up = check(&Sort {
        x: &x,
        row_len: 7,
        k: 7,
        descending: false,
    });
    assert_eq!(up.1, [0, 2, 6, 4, 3, 1, 5]);
    let canonical = f32::from_bits(0x7FC0_0000);
    assert_bits_equal(
        "values",
        &up.0,
        &[0.0, -0.0, 0.0, 1.0, inf, canonical, canonical],
    );
    let down = check(&Sort {
        x: &x,
        row_len: 7,
        k: 7,
        descending: true,
    });
    assert_eq!(down.1, [1, 5, 3, 4, 0, 2, 6]);
    // A control: the reverse of an ascending sort is not a stable descending one.
    assert!(up.1.iter().rev().ne(&down.1));
}

#[test]
fn golden_v1() {
    let entries = golden::entries("sort");
    assert!(entries.len() >= 2, "{} entries", entries.len());
    for entry in &entries {
        let (rows, row_len) = (entry.int("rows"), entry.int("row_len"));
        let x: Vec<f32> = painted(entry.seed(), rows * row_len)
            .iter()
            .map(|x| (x * 8.0).trunc())
            .collect();
        let (values, indices) = check(&Sort {
            x: &x,
            row_len,
            k: entry.int("k"),
            descending: entry.int("descending") == 1,
        });
        let both = values.into_iter().chain(indices.iter().map(|&i| i as f32));
        entry.check(&both.collect::<Vec<_>>());
    }
}

#[test]
fn errors_name_argument_expected_and_got() {
    let op = Sort {
        x: &[0.0; 6],
        row_len: 3,
        k: 2,
        descending: true,
    };
    let message = |op: Sort| {
        let error = op.reference(&mut [0.0; 4], &mut [0; 3]);
        error.expect_err("invalid").to_string()
    };
    assert_eq!(
        message(op),
        "sort: indices [R, k] has 3 elements, expected 4"
    );
    assert_eq!(message(Sort { k: 4, ..op }), "sort: k is 4, expected 1..=3");
    assert_eq!(
        message(Sort { row_len: 4, ..op }),
        "sort: x [R, n] has 6 elements, expected 4"
    );
    assert_eq!(
        message(Sort { k: 1, ..op }),
        "sort: values [R, k] has 4 elements, expected 2"
    );
}
