use jetblock_testing::*;

use super::*;
use crate::golden;

const MODES: [Mode; 4] = [Mode::Nearest, Mode::NearestExact, Mode::Linear, Mode::Cubic];

fn check(op: &Upsample) -> Vec<f32> {
    let from: usize = op.input_size.iter().product();
    let to: usize = op.output_size.iter().product();
    let count = op.x.len() / from * to;
    let mut want = Guarded::new(count);
    op.reference(&mut want).expect("valid arguments");
    want.assert_intact();
    for_every_cpu(|cpu| {
        let mut out = Guarded::new(count);
        op.cpu(&mut out, cpu).expect("valid arguments");
        let what = format!("{:?} {:?} to {:?}", op.mode, op.input_size, op.output_size);
        assert_bits_equal(what, &out, &want);
        out.assert_intact();
    });
    want.to_vec()
}

#[test]
fn cpu_equals_reference() {
    let sizes = [
        ([1, 8, 8], [1, 16, 16]),
        ([1, 5, 7], [1, 13, 40]),
        ([1, 9, 33], [1, 4, 20]),
        ([2, 3, 5], [5, 3, 11]),
        ([1, 1, 6], [1, 1, 17]),
        ([3, 4, 4], [3, 4, 4]),
        ([1, 1, 1], [2, 3, 4]),
        ([2, 4, 6], [1, 1, 1]),
    ];
    for (input_size, output_size) in sizes {
        let count = 3 * input_size.iter().product::<usize>();
        for x in [painted(1, count), painted_special(2, count, 9)] {
            for mode in MODES {
                for align_corners in [false, true] {
                    for scale_factor in [[0.0; 3], [1.0, 2.3, 2.0]] {
                        check(&Upsample {
                            x: &x,
                            input_size,
                            output_size,
                            mode,
                            align_corners,
                            scale_factor,
                        });
                    }
                }
            }
        }
    }
}

#[test]
fn known_values() {
    let x = [0.0, 1.0, 2.0, 3.0];
    let op = Upsample {
        x: &x,
        input_size: [1, 1, 4],
        output_size: [1, 1, 8],
        mode: Mode::Linear,
        align_corners: false,
        scale_factor: [0.0; 3],
    };
    let want = [0.0, 0.25, 0.75, 1.25, 1.75, 2.25, 2.75, 3.0];
    assert_bits_equal("linear", &check(&op), &want);
    let nearest = check(&Upsample {
        mode: Mode::Nearest,
        ..op
    });
    assert_bits_equal(
        "nearest",
        &nearest,
        &[0.0, 0.0, 1.0, 1.0, 2.0, 2.0, 3.0, 3.0],
    );
    let corners = check(&Upsample {
        align_corners: true,
        output_size: [1, 1, 7],
        ..op
    });
    assert_bits_equal("corners", &corners, &[0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0]);
    assert_bits_differ(
        "cubic",
        &check(&Upsample {
            mode: Mode::Cubic,
            ..op
        }),
        &want,
    );
}

#[test]
fn the_order_of_axes_is_felt() {
    let x = painted(1, 7 * 7);
    let turned: Vec<f32> = (0..49).map(|i| x[i % 7 * 7 + i / 7]).collect();
    let op = |x| Upsample {
        x,
        input_size: [1, 7, 7],
        output_size: [1, 20, 20],
        mode: Mode::Cubic,
        align_corners: false,
        scale_factor: [0.0; 3],
    };
    let y = check(&op(&turned));
    let back: Vec<f32> = (0..400).map(|i| y[i % 20 * 20 + i / 20]).collect();
    assert_bits_differ("height first", &back, &check(&op(&x)));
}

#[test]
fn golden_v1() {
    let entries = golden::entries("upsample");
    assert!(entries.len() >= 4, "{} entries", entries.len());
    for entry in &entries {
        let input_size: [usize; 3] = entry.ints("input_size");
        let mode = match entry.text("mode") {
            "nearest" => Mode::Nearest,
            "nearest-exact" => Mode::NearestExact,
            "linear" => Mode::Linear,
            "cubic" => Mode::Cubic,
            other => panic!("mode {other}"),
        };
        let x = painted(
            entry.seed(),
            entry.int("images") * input_size.iter().product::<usize>(),
        );
        entry.check(&check(&Upsample {
            x: &x,
            input_size,
            output_size: entry.ints("output_size"),
            mode,
            align_corners: entry.int("align_corners") == 1,
            scale_factor: [f64::from(entry.float("scale_factor")); 3],
        }));
    }
}

#[test]
fn errors_name_argument_expected_and_got() {
    let op = Upsample {
        x: &[0.0; 24],
        input_size: [1, 3, 4],
        output_size: [1, 6, 8],
        mode: Mode::Linear,
        align_corners: false,
        scale_factor: [0.0; 3],
    };
    let message = |op: Upsample| {
        op.reference(&mut [0.0; 95])
            .expect_err("invalid")
            .to_string()
    };
    assert_eq!(
        message(op),
        "upsample: out [B * C, D', H', W'] has 95 elements, expected 96"
    );
    assert_eq!(
        message(Upsample {
            x: &[0.0; 25],
            ..op
        }),
        "upsample: x [B * C, D, H, W] has 25 elements, expected 24"
    );
    assert!(
        message(Upsample {
            output_size: [1, 0, 8],
            ..op
        })
        .contains("expected positive")
    );
    assert!(
        message(Upsample {
            scale_factor: [f64::NAN; 3],
            ..op
        })
        .contains("expected positive")
    );
}
