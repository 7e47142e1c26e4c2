use jetblock_numerics::reduce;
use jetblock_testing::*;

use super::*;
use crate::golden;

fn check(op: &LayerNorm) -> Vec<f32> {
    let mut want = Guarded::new(op.x.len());
    op.reference(&mut want).expect("valid arguments");
    want.assert_intact();
    for_every_cpu(|cpu| {
        let mut out = Guarded::new(op.x.len());
        op.cpu(&mut out, cpu).expect("valid arguments");
        assert_bits_equal(format!("D = {}", op.row_len), &out, &want);
        out.assert_intact();
    });
    want.to_vec()
}

#[test]
fn cpu_equals_reference() {
    for row_len in AWKWARD_LENGTHS {
        let (weight, bias) = (painted(2, row_len), painted(3, row_len));
        for x in [
            painted(1, 3 * row_len),
            painted_wide(4, row_len),
            painted_special(5, 5 * row_len, 300),
            vec![0.5; row_len],
            vec![f32::MAX; row_len],
        ] {
            for (weight, bias) in [
                (Some(&weight[..]), Some(&bias[..])),
                (Some(&weight[..]), None),
                (None, None),
            ] {
                check(&LayerNorm {
                    x: &x,
                    row_len,
                    weight,
                    bias,
                    eps: 1e-5,
                });
            }
        }
    }
    // Enough rows that every thread gets some.
    let x = painted(6, 67 * 1025);
    check(&LayerNorm {
        x: &x,
        row_len: 1025,
        weight: None,
        bias: Some(&x[..1025]),
        eps: 0.0,
    });
}

#[test]
fn other_formulas_are_noticed() {
    let x: Vec<f32> = painted(1, 1025).iter().map(|x| x + 3.0).collect();
    let (weight, bias) = (painted(2, 1025), painted(3, 1025));
    let op = LayerNorm {
        x: &x,
        row_len: 1025,
        weight: Some(&weight),
        bias: Some(&bias),
        eps: 1e-5,
    };
    let want = check(&op);
    let mean = reduce::sum(&x) / 1025.0;
    let one_pass = reduce::sum_of_squares(&x) / 1025.0 - mean * mean;
    let d: Vec<f32> = x.iter().map(|x| x - mean).collect();
    let two_pass = reduce::sum_of_squares(&d) / 1025.0;
    let by = |variance: f32, fused: bool| -> Vec<f32> {
        let r = 1.0 / (variance + 1e-5).sqrt();
        let y = |i: usize| match fused {
            true => jetblock_numerics::fma(d[i] * r, weight[i], bias[i]),
            false => d[i] * r * weight[i] + bias[i],
        };
        (0..1025).map(y).collect()
    };
    assert_bits_equal("the formula of this test", &by(two_pass, false), &want);
    assert_bits_differ("variance in one pass", &by(one_pass, false), &want);
    assert_bits_differ("a fused affine map", &by(two_pass, true), &want);
}

#[test]
fn golden_v1() {
    let entries = golden::entries("layer_norm");
    assert!(entries.len() >= 2, "{} entries", entries.len());
    for entry in &entries {
        let (rows, row_len, seed) = (entry.int("rows"), entry.int("row_len"), entry.seed());
        let x = painted(seed, rows * row_len);
        let (weight, bias) = (painted(seed + 1, row_len), painted(seed + 2, row_len));
        entry.check(&check(&LayerNorm {
            x: &x,
            row_len,
            weight: Some(&weight),
            bias: Some(&bias),
            eps: entry.float("eps"),
        }));
    }
}

#[test]
fn errors_name_argument_expected_and_got() {
    let x = [0.0; 10];
    let op = LayerNorm {
        x: &x,
        row_len: 3,
        weight: None,
        bias: None,
        eps: 0.0,
    };
    let message = |op: LayerNorm| op.check().expect_err("invalid").to_string();
    assert_eq!(
        message(op),
        "layer_norm: x [R, D] has 10 elements, expected 9"
    );
    assert_eq!(
        message(LayerNorm { row_len: 0, ..op }),
        "layer_norm: row length is 0, expected at least 1"
    );
    let bias = Some(&x[..3]);
    assert_eq!(
        message(LayerNorm {
            row_len: 5,
            bias,
            ..op
        }),
        "layer_norm: bias [D] has 3 elements, expected 5"
    );
    assert_eq!(
        message(LayerNorm {
            row_len: 5,
            eps: -1.0,
            ..op
        }),
        "layer_norm: eps is -1, expected finite and >= 0"
    );
}
