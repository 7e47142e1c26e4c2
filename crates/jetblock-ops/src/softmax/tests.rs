use jetblock_numerics::math::{exp, log};
use jetblock_numerics::reduce;
use jetblock_simd::Cpu;
use jetblock_testing::*;

use super::*;

fn reference(op: &Softmax) -> Vec<f32> {
    let mut out = Guarded::new(op.x.len());
    op.reference(&mut out).expect("valid arguments");
    out.assert_intact();
    out.to_vec()
}

fn assert_cpu_equals_reference(x: &[f32], row_len: usize) {
    for scale in [Scale::Linear, Scale::Log] {
        let op = Softmax { x, row_len, scale };
        let want = reference(&op);
        for_every_cpu(|cpu| {
            let mut out = Guarded::new(x.len());
            op.cpu(&mut out, cpu).expect("valid arguments");
            assert_bits_equal(format!("{scale:?}, V = {row_len}"), &out, &want);
            out.assert_intact();
            if scale == Scale::Log && !x.is_empty() {
                let got = log_prob(&x[..row_len], row_len / 2, cpu).expect("in range");
                assert_bits_equal("log_prob", &[got], &want[row_len / 2..][..1]);
            }
        });
    }
}

#[test]
fn cpu_equals_reference() {
    for row_len in AWKWARD_LENGTHS.into_iter().chain([33_000]) {
        let logits: Vec<f32> = painted(1, 2 * row_len).iter().map(|x| x * 8.0).collect();
        for x in [
            logits,
            painted_wide(2, row_len),
            painted_special(3, 3 * row_len, 500),
        ] {
            assert_cpu_equals_reference(&x, row_len);
        }
    }
    assert_cpu_equals_reference(&painted_special(4, 300 * 40, 20), 40);
    assert_cpu_equals_reference(&[f32::NEG_INFINITY; 40], 40);
    assert_cpu_equals_reference(&[1.0, f32::NEG_INFINITY, -0.0], 3);
    assert_cpu_equals_reference(&[], 5);
}

#[test]
fn infinities() {
    let y = |x: &[f32]| {
        reference(&Softmax {
            x,
            row_len: x.len(),
            scale: Scale::Linear,
        })
    };
    assert_bits_equal(
        "a weight of zero",
        &y(&[2.0, f32::NEG_INFINITY, 2.0]),
        &[0.5, 0.0, 0.5],
    );
    let nan = f32::from_bits(0x7FC0_0000);
    assert_bits_equal("no finite element", &y(&[f32::NEG_INFINITY; 2]), &[nan; 2]);
}

#[test]
fn rounding_points_are_felt() {
    let x = painted(1, 1025);
    let m = reduce::max(&x);
    let p: Vec<f32> = x.iter().map(|x| exp(x - m)).collect();
    let l = reduce::sum(&p);
    let by_reciprocal: Vec<f32> = p.iter().map(|p| p * (1.0 / l)).collect();
    let want = reference(&Softmax {
        x: &x,
        row_len: 1025,
        scale: Scale::Linear,
    });
    assert_bits_differ("p * (1 / l)", &by_reciprocal, &want);
    let other: Vec<f32> = x.iter().map(|x| x - (m + log(l))).collect();
    let want = reference(&Softmax {
        x: &x,
        row_len: 1025,
        scale: Scale::Log,
    });
    assert_bits_differ("x - (m + log(l))", &other, &want);
}

#[test]
fn errors_name_argument_expected_and_got() {
    let op = Softmax {
        x: &[0.0; 7],
        row_len: 3,
        scale: Scale::Linear,
    };
    let message = |op: Softmax| op.check().expect_err("invalid").to_string();
    assert_eq!(message(op), "softmax: x [R, V] has 7 elements, expected 6");
    assert_eq!(
        message(Softmax { row_len: 0, ..op }),
        "softmax: row_len is 0, expected at least 1"
    );
    let error = log_prob(&[0.0; 3], 3, &Cpu::single())
        .expect_err("out of range")
        .to_string();
    assert_eq!(error, "log_prob: index is 3, expected below V = 3");
}
