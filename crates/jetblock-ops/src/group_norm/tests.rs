use jetblock_testing::*;

use super::*;
use crate::golden;
use crate::layer_norm::LayerNorm;

fn check(op: &GroupNorm) -> Vec<f32> {
    let mut want = Guarded::new(op.x.len());
    op.reference(&mut want).expect("valid arguments");
    want.assert_intact();
    for_every_cpu(|cpu| {
        let mut out = Guarded::new(op.x.len());
        op.cpu(&mut out, cpu).expect("valid arguments");
        let what = format!("{} channels, {} groups", op.channels, op.groups);
        assert_bits_equal(what, &out, &want);
        out.assert_intact();
    });
    want.to_vec()
}

#[test]
fn cpu_equals_reference() {
    for (channels, groups) in [(1, 1), (6, 1), (6, 2), (6, 6), (64, 32)] {
        let (weight, bias) = (painted(2, channels), painted(3, channels));
        for positions in [1, 15, 33, 256, 1031] {
            for x in [
                painted(1, 3 * channels * positions),
                painted_wide(4, channels * positions),
                painted_special(5, 2 * channels * positions, 500),
            ] {
                let affine = positions != 33;
                check(&GroupNorm {
                    x: &x,
                    channels,
                    positions,
                    groups,
                    weight: affine.then_some(&weight),
                    bias: (affine && positions != 15).then_some(&bias),
                    eps: 1e-6,
                });
            }
        }
    }
}

#[test]
fn groups_are_rows_in_logical_order() {
    let (channels, positions, groups) = (6, 50, 2);
    let x = painted(1, 2 * channels * positions);
    let op = GroupNorm {
        x: &x,
        channels,
        positions,
        groups,
        weight: None,
        bias: None,
        eps: 1e-5,
    };
    let y = check(&op);
    let mut rows = vec![0.0; x.len()];
    let layer = LayerNorm {
        x: &x,
        row_len: 150,
        weight: None,
        bias: None,
        eps: 1e-5,
    };
    layer.reference(&mut rows).expect("valid arguments");
    assert_bits_equal("rows of three channels", &y, &rows);
    // The same elements with the channel fastest are another sum.
    let turned: Vec<f32> = (0..x.len())
        .map(|i| {
            let (image, rest) = (i / 300, i % 300);
            let (group, rest) = (rest / 150, rest % 150);
            x[image * 300 + group * 150 + rest % 3 * 50 + rest / 3]
        })
        .collect();
    let y = check(&GroupNorm { x: &turned, ..op });
    let back: Vec<f32> = (0..x.len())
        .map(|i| {
            let (block, rest) = (i / 150 * 150, i % 150);
            y[block + rest % 50 * 3 + rest / 50]
        })
        .collect();
    assert_bits_differ("sums with the channel fastest", &back, &rows);
}

#[test]
fn golden_v1() {
    let entries = golden::entries("group_norm");
    assert!(entries.len() >= 2, "{} entries", entries.len());
    for entry in &entries {
        let (channels, positions) = (entry.int("channels"), entry.int("positions"));
        let seed = entry.seed();
        let x = painted(seed, entry.int("batch") * channels * positions);
        let (weight, bias) = (painted(seed + 1, channels), painted(seed + 2, channels));
        entry.check(&check(&GroupNorm {
            x: &x,
            channels,
            positions,
            groups: entry.int("groups"),
            weight: Some(&weight),
            bias: Some(&bias),
            eps: entry.float("eps"),
        }));
    }
}

#[test]
fn errors_name_argument_expected_and_got() {
    let x = [0.0; 24];
    let op = GroupNorm {
        x: &x,
        channels: 6,
        positions: 4,
        groups: 3,
        weight: None,
        bias: None,
        eps: 0.0,
    };
    op.check().expect("valid");
    let message = |op: GroupNorm| op.check().expect_err("invalid").to_string();
    assert_eq!(
        message(GroupNorm { groups: 4, ..op }),
        "group_norm: groups is 4, expected a divisor of 6 channels"
    );
    assert_eq!(
        message(GroupNorm { positions: 5, ..op }),
        "group_norm: x [B, C, S] has 24 elements, expected 0"
    );
    assert_eq!(
        message(GroupNorm {
            weight: Some(&x),
            ..op
        }),
        "group_norm: weight [C] has 24 elements, expected 6"
    );
    assert!(
        message(GroupNorm {
            eps: f32::NAN,
            ..op
        })
        .contains("expected finite")
    );
}
