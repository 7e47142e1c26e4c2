use jetblock_numerics::math::silu;
use jetblock_testing::*;

use super::*;
use crate::rms_norm::RmsNorm;

fn reference(op: &RmsNormGated) -> Vec<f32> {
    let mut out = Guarded::new(op.y.len());
    op.reference(&mut out).expect("valid arguments");
    out.assert_intact();
    out.to_vec()
}

fn assert_cpu_equals_reference(op: &RmsNormGated) {
    let want = reference(op);
    for_every_cpu(|cpu| {
        let mut out = Guarded::new(op.y.len());
        op.cpu(&mut out, cpu).expect("valid arguments");
        assert_bits_equal(
            format!("inner = {}, groups = {}", op.weight.len(), op.groups),
            &out,
            &want,
        );
        out.assert_intact();
    });
}

#[test]
fn cpu_equals_reference() {
    for width in AWKWARD_LENGTHS {
        for groups in [1, 2, 3] {
            let (inner, rows) = (groups * width, 3);
            let row_len = inner + 5;
            let weight = painted(1, inner);
            for every in [2, 200, u32::MAX] {
                let (y, p) = (
                    painted_special(2, rows * inner, every),
                    painted_special(3, rows * row_len, every),
                );
                let z = Columns {
                    data: &p,
                    row_len,
                    columns: 2..2 + inner,
                };
                assert_cpu_equals_reference(&RmsNormGated {
                    y: &y,
                    z,
                    weight: &weight,
                    groups,
                    eps: 1e-5,
                });
            }
        }
    }
}

#[test]
fn the_gate_comes_first_and_groups_are_apart() {
    let (y, z, weight) = (painted(1, 64), painted(2, 64), painted(3, 64));
    let op = RmsNormGated {
        y: &y,
        z: Columns::whole(&z, 64),
        weight: &weight,
        groups: 2,
        eps: 1e-5,
    };
    let want = reference(&op);

    let gated: Vec<f32> = y.iter().zip(&z).map(|(y, z)| y * silu(*z)).collect();
    let norm = |x: &[f32], weight: &[f32]| {
        let mut out = vec![0.0; x.len()];
        RmsNorm {
            x,
            weight,
            eps: 1e-5,
        }
        .reference(&mut out)
        .expect("valid arguments");
        out
    };
    let halves = [
        norm(&gated[..32], &weight[..32]),
        norm(&gated[32..], &weight[32..]),
    ]
    .concat();
    assert_bits_equal("gate, then rms_norm of each half", &halves, &want);

    assert_bits_differ("one norm over the whole row", &norm(&gated, &weight), &want);
    let norm_first: Vec<f32> = norm(&y, &weight)
        .iter()
        .zip(&z)
        .map(|(y, z)| y * silu(*z))
        .collect();
    assert_bits_differ("norm, then gate", &norm_first, &want);
    let raw_gate: Vec<f32> = y.iter().zip(&z).map(|(y, z)| y * z).collect();
    let raw = [
        norm(&raw_gate[..32], &weight[..32]),
        norm(&raw_gate[32..], &weight[32..]),
    ]
    .concat();
    assert_bits_differ("gate without silu", &raw, &want);
}

#[test]
fn errors_name_argument_expected_and_got() {
    let x = [0.0; 12];
    let op = RmsNormGated {
        y: &x,
        z: Columns::whole(&x, 6),
        weight: &x[..6],
        groups: 3,
        eps: 0.0,
    };
    assert_eq!(op.check(), Ok(()));
    let message = |op: RmsNormGated| op.check().expect_err("invalid").to_string();
    assert_eq!(
        message(RmsNormGated {
            groups: 4,
            ..op.clone()
        }),
        "rms_norm_gated: groups is 4, expected a divisor of inner = 6"
    );
    assert_eq!(
        message(RmsNormGated {
            z: Columns {
                data: &x,
                row_len: 6,
                columns: 1..6
            },
            ..op.clone()
        }),
        "rms_norm_gated: z [R, inner] is 5 columns, expected 6 columns"
    );
    assert_eq!(
        message(RmsNormGated {
            z: Columns {
                data: &x,
                row_len: 6,
                columns: 1..7
            },
            ..op.clone()
        }),
        "rms_norm_gated: z [R, inner] is columns 1..7, expected a column range inside 0..6"
    );
    assert_eq!(
        message(RmsNormGated { y: &x[..6], ..op }),
        "rms_norm_gated: z [R, inner] has 12 elements, expected 6"
    );
}
