use jetblock_testing::*;

use super::*;
use crate::golden;

fn check(x: &[f32], len: usize, inner: usize) -> Vec<f32> {
    let op = Cumsum { x, len, inner };
    let mut want = Guarded::new(x.len());
    op.reference(&mut want).expect("valid arguments");
    want.assert_intact();
    for_every_cpu(|cpu| {
        let mut out = Guarded::new(x.len());
        op.cpu(&mut out, cpu).expect("valid arguments");
        assert_bits_equal(format!("n = {len}, I = {inner}"), &out, &want);
        out.assert_intact();
    });
    want.to_vec()
}

#[test]
fn cpu_equals_reference() {
    for len in AWKWARD_LENGTHS {
        for inner in [1, 3, 33] {
            check(&painted_wide(1, 3 * len * inner), len, inner);
            check(&painted_special(2, len * inner, 200), len, inner);
        }
    }
    check(&painted(3, 80 * 1025), 1025, 1);
    check(&[-0.0; 6], 3, 2);
}

#[test]
fn other_orders_are_noticed() {
    let x = painted_wide(1, 600);
    let y = check(&x, 600, 1);
    let mut chain = 0.0;
    let one: Vec<f32> = x
        .iter()
        .map(|x| {
            chain += x;
            chain
        })
        .collect();
    assert_bits_equal("the first block is one chain", &one[..256], &y[..256]);
    assert_bits_differ("one chain", &one, &y);
}

#[test]
fn golden_v1() {
    let entries = golden::entries("cumsum");
    assert!(entries.len() >= 2, "{} entries", entries.len());
    for entry in &entries {
        let (outer, len, inner) = (entry.int("outer"), entry.int("len"), entry.int("inner"));
        let x = painted_wide(entry.seed(), outer * len * inner);
        entry.check(&check(&x, len, inner));
    }
}

#[test]
fn errors_name_argument_expected_and_got() {
    let op = Cumsum {
        x: &[0.0; 7],
        len: 3,
        inner: 2,
    };
    let message = |op: Cumsum, out: usize| {
        let error = op.reference(&mut vec![0.0; out]);
        error.expect_err("invalid").to_string()
    };
    assert_eq!(
        message(op, 7),
        "cumsum: x [O, n, I] has 7 elements, expected 6"
    );
    assert_eq!(
        message(
            Cumsum {
                len: 7,
                inner: 1,
                ..op
            },
            6
        ),
        "cumsum: out [O, n, I] has 6 elements, expected 7"
    );
    assert_eq!(
        message(Cumsum { len: 0, ..op }, 6),
        "cumsum: row length is 0, expected at least 1"
    );
}
