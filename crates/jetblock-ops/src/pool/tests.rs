use jetblock_testing::*;

use super::*;
use crate::golden;

fn check(op: &Pool) -> Vec<f32> {
    let from: usize = op.input_size.iter().product();
    let to: usize = op.output_size().expect("valid arguments").iter().product();
    let count = op.x.len() / from * to;
    let mut want = Guarded::new(count);
    op.reference(&mut want).expect("valid arguments");
    want.assert_intact();
    for_every_cpu(|cpu| {
        let mut out = Guarded::new(count);
        op.cpu(&mut out, cpu).expect("valid arguments");
        assert_bits_equal(
            format!("{:?} of {:?}", op.pooling, op.input_size),
            &out,
            &want,
        );
        out.assert_intact();
    });
    want.to_vec()
}

fn square(
    kernel: usize,
    stride: usize,
    padding: usize,
    dilation: usize,
    ceil_mode: bool,
) -> Window {
    Window {
        kernel_size: [1, kernel, kernel],
        stride: [1, stride, stride],
        padding: [0, padding, padding],
        dilation: [1, dilation, dilation],
        ceil_mode,
    }
}

#[test]
fn cpu_equals_reference() {
    for input_size in [[1, 8, 8], [1, 9, 13], [3, 11, 7]] {
        let count = 3 * input_size.iter().product::<usize>();
        for x in [painted_wide(1, count), painted_special(2, count, 20)] {
            for (kernel, stride, padding) in [(2, 2, 0), (3, 1, 1), (3, 2, 1), (5, 3, 2)] {
                for ceil_mode in [false, true] {
                    for dilation in [1, 2] {
                        if dilation * (kernel - 1) < 7 {
                            let window = square(kernel, stride, padding, dilation, ceil_mode);
                            check(&Pool {
                                x: &x,
                                input_size,
                                pooling: Pooling::Max(window),
                            });
                        }
                    }
                    let window = square(kernel, stride, padding, 1, ceil_mode);
                    for (count_include_pad, divisor) in
                        [(true, None), (false, None), (false, Some(3))]
                    {
                        let pooling = Pooling::Avg {
                            window,
                            count_include_pad,
                            divisor,
                        };
                        check(&Pool {
                            x: &x,
                            input_size,
                            pooling,
                        });
                    }
                }
            }
            for output in [[1, 1, 1], [1, 3, 5], [2, 8, 20]] {
                check(&Pool {
                    x: &x,
                    input_size,
                    pooling: Pooling::AdaptiveAvg(output),
                });
                check(&Pool {
                    x: &x,
                    input_size,
                    pooling: Pooling::AdaptiveMax(output),
                });
            }
        }
    }
    let x = painted(3, 2 * 40 * 40);
    check(&Pool {
        x: &x,
        input_size: [1, 40, 40],
        pooling: Pooling::AdaptiveAvg([1; 3]),
    });
}

#[test]
fn known_values() {
    let x: Vec<f32> = (0..9).map(|i| i as f32).collect();
    let avg = |window, count_include_pad| {
        let pooling = Pooling::Avg {
            window,
            count_include_pad,
            divisor: None,
        };
        check(&Pool {
            x: &x,
            input_size: [1, 3, 3],
            pooling,
        })
    };
    assert_bits_equal(
        "windows of four",
        &avg(square(2, 1, 0, 1, false), true),
        &[2.0, 3.0, 5.0, 6.0],
    );
    let padded = avg(square(2, 2, 1, 1, false), true);
    assert_bits_equal("padding counts", &padded, &[0.0, 0.75, 2.25, 6.0]);
    let bare = avg(square(2, 2, 1, 1, false), false);
    assert_bits_equal("padding does not count", &bare, &[0.0, 1.5, 4.5, 6.0]);
    // The last window has one element, and one of the padded input.
    let more = avg(square(2, 2, 0, 1, true), true);
    assert_bits_equal("a window beyond the end", &more, &[2.0, 3.5, 6.5, 8.0]);
    let pooling = Pooling::Avg {
        window: square(2, 1, 0, 1, false),
        count_include_pad: true,
        divisor: None,
    };
    let zero = check(&Pool {
        x: &[-0.0; 9],
        input_size: [1, 3, 3],
        pooling,
    });
    assert_bits_equal("a sum starts at +0", &zero, &[0.0; 4]);
    let pooling = Pooling::Max(square(2, 2, 1, 1, false));
    let max = check(&Pool {
        x: &[-1.0; 9],
        input_size: [1, 3, 3],
        pooling,
    });
    assert_bits_equal("padding is no element", &max, &[-1.0; 4]);
    assert_bits_differ("padding as zero", &max, &[0.0; 4]);
}

#[test]
fn golden_v1() {
    let entries = golden::entries("pool");
    assert!(entries.len() >= 3, "{} entries", entries.len());
    for entry in &entries {
        let input_size: [usize; 3] = entry.ints("input_size");
        let window = || Window {
            kernel_size: entry.ints("kernel_size"),
            stride: entry.ints("stride"),
            padding: entry.ints("padding"),
            dilation: [1; 3],
            ceil_mode: entry.int("ceil_mode") == 1,
        };
        let pooling = match entry.text("pooling") {
            "max" => Pooling::Max(window()),
            "avg" => Pooling::Avg {
                window: window(),
                count_include_pad: entry.int("count_include_pad") == 1,
                divisor: None,
            },
            "adaptive_avg" => Pooling::AdaptiveAvg(entry.ints("output_size")),
            other => panic!("pooling {other}"),
        };
        let x = painted_wide(
            entry.seed(),
            entry.int("images") * input_size.iter().product::<usize>(),
        );
        entry.check(&check(&Pool {
            x: &x,
            input_size,
            pooling,
        }));
    }
}

#[test]
fn errors_name_argument_expected_and_got() {
    let op = |window| Pool {
        x: &[0.0; 9],
        input_size: [1, 3, 3],
        pooling: Pooling::Max(window),
    };
    let message = |op: Pool| {
        op.reference(&mut [0.0; 3])
            .expect_err("invalid")
            .to_string()
    };
    assert_eq!(
        message(op(square(2, 1, 0, 1, false))),
        "pool: out [B * C, D', H', W'] has 3 elements, expected 4"
    );
    assert!(message(op(square(2, 0, 0, 1, false))).contains("expected positive extents"));
    assert!(message(op(square(4, 1, 0, 1, false))).contains("no larger than the padded input"));
    assert!(message(op(square(2, 1, 2, 1, false))).contains("at most half the kernel"));
    let adaptive = Pool {
        pooling: Pooling::AdaptiveAvg([1, 0, 1]),
        ..op(square(1, 1, 0, 1, false))
    };
    assert!(message(adaptive).contains("sizes is"));
}
