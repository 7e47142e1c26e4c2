use jetblock_simd::{Cpu, fp_env};
use jetblock_testing::*;

use super::*;

fn reference(op: &RmsNorm) -> Vec<f32> {
    let mut out = Guarded::new(op.x.len());
    op.reference(&mut out).expect("valid arguments");
    out.assert_intact();
    out.to_vec()
}

fn assert_cpu_equals_reference(op: &RmsNorm) {
    let want = reference(op);
    for_every_cpu(|cpu| {
        let mut out = Guarded::new(op.x.len());
        op.cpu(&mut out, cpu).expect("valid arguments");
        assert_bits_equal(format!("D = {}", op.weight.len()), &out, &want);
        out.assert_intact();
    });
}

#[test]
fn cpu_equals_reference() {
    for width in AWKWARD_LENGTHS {
        let weight = painted(2, width);
        for x in [
            painted(1, 3 * width),
            painted_wide(3, width),
            painted_special(4, 5 * width, 300),
            vec![0.0; width],
        ] {
            assert_cpu_equals_reference(&RmsNorm {
                x: &x,
                weight: &weight,
                eps: 1e-5,
            });
        }
    }
    // Enough rows that every thread gets some.
    let (x, weight) = (painted(5, 67 * 1025), painted(6, 1025));
    assert_cpu_equals_reference(&RmsNorm {
        x: &x,
        weight: &weight,
        eps: 0.0,
    });
    assert_cpu_equals_reference(&RmsNorm {
        x: &[],
        weight: &weight,
        eps: 1e-5,
    });
}

#[test]
fn row_is_independent_of_batch() {
    let (x, weight) = (painted(1, 9 * 300), painted(2, 300));
    let all = reference(&RmsNorm {
        x: &x,
        weight: &weight,
        eps: 1e-5,
    });
    for row in 0..9 {
        let range = row * 300..(row + 1) * 300;
        let alone = reference(&RmsNorm {
            x: &x[range.clone()],
            weight: &weight,
            eps: 1e-5,
        });
        assert_bits_equal(format!("row {row}"), &alone, &all[range]);
    }
}

#[test]
fn rounding_points_are_felt() {
    let (x, weight) = (painted(1, 1025), painted(2, 1025));
    let want = reference(&RmsNorm {
        x: &x,
        weight: &weight,
        eps: 1e-5,
    });
    let mean_square = jetblock_numerics::reduce::sum_of_squares(&x) / 1025.0;
    let r = 1.0 / (mean_square + 1e-5).sqrt();
    let other_order: Vec<f32> = x.iter().zip(&weight).map(|(x, w)| x * (r * w)).collect();
    assert_bits_differ("x * (r * w)", &other_order, &want);
    let divided: Vec<f32> = x
        .iter()
        .zip(&weight)
        .map(|(x, w)| x / (mean_square + 1e-5).sqrt() * w)
        .collect();
    assert_bits_differ("x / rms", &divided, &want);
}

#[test]
fn golden_bits_v1() {
    let (x, weight) = (painted(1, 6), [1.0, -0.5, 2.0, 1.5, 0.0, 3.0]);
    let op = RmsNorm {
        x: &x,
        weight: &weight,
        eps: 1e-5,
    };
    let golden = [
        0x3FCFFA55, 0x3E3A12B8, 0xC058F79C, 0xBE8EA918, 0x80000000, 0xBCC211AD,
    ];
    assert_bits_equal("golden", &reference(&op), &golden.map(f32::from_bits));
}

#[test]
fn the_callers_rounding_mode_does_not_matter() {
    let (x, weight) = (painted(1, 2049), painted(2, 2049));
    let op = RmsNorm {
        x: &x,
        weight: &weight,
        eps: 1e-5,
    };
    let want = reference(&op);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            fp_env::disturb_for_tests();
            assert_bits_differ("the definition without a guard", &reference(&op), &want);
            let mut out = vec![0.0; x.len()];
            op.cpu(&mut out, &Cpu::single()).expect("valid arguments");
            assert_bits_equal("disturbed thread", &out, &want);
        });
    });
}

#[test]
fn errors_name_argument_expected_and_got() {
    let x = [0.0; 10];
    let message = |op: RmsNorm| op.check().expect_err("invalid").to_string();
    assert_eq!(
        message(RmsNorm {
            x: &x,
            weight: &x[..3],
            eps: 0.0
        }),
        "rms_norm: x [R, D] has 10 elements, expected 9"
    );
    assert_eq!(
        message(RmsNorm {
            x: &x,
            weight: &[],
            eps: 0.0
        }),
        "rms_norm: weight [D] is empty, expected at least one element"
    );
    assert_eq!(
        message(RmsNorm {
            x: &x,
            weight: &x,
            eps: -1.0
        }),
        "rms_norm: eps is -1, expected finite and >= 0"
    );
    assert!(
        RmsNorm {
            x: &x,
            weight: &x,
            eps: f32::NAN
        }
        .check()
        .is_err()
    );
    let short = RmsNorm {
        x: &x,
        weight: &x,
        eps: 0.0,
    }
    .cpu(&mut [0.0; 9], &Cpu::single());
    assert_eq!(
        short.expect_err("short").to_string(),
        "rms_norm: out [R, D] has 9 elements, expected 10"
    );
}
