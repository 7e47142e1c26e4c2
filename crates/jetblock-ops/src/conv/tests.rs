use jetblock_numerics::fma;
use jetblock_simd::Cpu;
use jetblock_testing::{
    Guarded, assert_bits_differ, assert_bits_equal, for_every_cpu, painted, painted_special,
    painted_wide,
};

use super::*;
use crate::floats::Codes;
use crate::golden;

const KINDS: [OperandKind; 2] = [OperandKind::Bf16, OperandKind::F32];

/// A square kernel, one step at a time, over planes.
fn plain(in_channels: usize, out_channels: usize, kernel: usize) -> ConvParams {
    ConvParams {
        in_channels,
        out_channels,
        kernel_size: [1, kernel, kernel],
        stride: [1; 3],
        padding: [0, kernel / 2, kernel / 2],
        dilation: [1; 3],
        groups: 1,
        transposed: None,
    }
}

fn volume(params: &ConvParams, input: [usize; 3]) -> usize {
    params.in_channels * product(input)
}

fn check(
    kind: OperandKind,
    params: ConvParams,
    input_size: [usize; 3],
    x: &[f32],
    weight: &[f32],
    bias: Option<&[f32]>,
) -> Vec<f32> {
    let reference =
        |x: &[f32]| reference(kind, &params, x, input_size, weight, bias).expect("valid arguments");
    let want = reference(x);
    let stored = Codes::of(x).map(|codes| {
        let want = reference(&codes.values());
        (codes, want)
    });
    for_every_cpu(|cpu| {
        let packed = ConvWeight::pack(cpu, kind, params, weight).expect("valid arguments");
        let op = Conv {
            x: x.into(),
            batch: x.len() / volume(&params, input_size),
            input_size,
            weight: &packed,
            bias,
        };
        let mut out = Guarded::new(want.len());
        op.cpu((&mut out[..]).into(), cpu).expect("valid arguments");
        let what = format!("{kind:?}, {params:?}, {input_size:?}");
        assert_bits_equal(&what, &out, &want);
        out.assert_intact();
        for (codes, want) in &stored {
            let op = Conv {
                x: codes.floats(),
                ..op
            };
            codes.assert_written(&what, want, |out| op.cpu(out, cpu));
        }
    });
    want
}

/// Both kinds, painted, with and without a bias.
fn check_painted(params: ConvParams, input_size: [usize; 3], batch: usize) {
    let x = painted(1, batch * volume(&params, input_size));
    let weight = painted(2, params.weight_len());
    let bias = painted(3, params.out_channels);
    for kind in KINDS {
        let bias = (kind == OperandKind::F32).then_some(&bias[..]);
        check(kind, params, input_size, &x, &weight, bias);
    }
}

#[test]
fn cpu_equals_reference_for_every_size() {
    for (channels, outputs, kernel) in [
        (1, 1, 1),
        (3, 5, 3),
        (4, 66, 3),
        (31, 2, 1),
        (65, 7, 3),
        (300, 3, 1),
    ] {
        for input in [[1, 1, 1], [1, 1, 70], [1, 5, 13], [1, 8, 8], [3, 2, 67]] {
            check_painted(plain(channels, outputs, kernel), input, 2);
        }
    }
}

#[test]
fn cpu_equals_reference_for_every_parameter() {
    for stride in [1, 2, 3] {
        for padding in [0, 1, 4] {
            for dilation in [1, 2] {
                for (groups, outputs) in [(1, 5), (2, 4), (6, 6), (6, 12)] {
                    let params = ConvParams {
                        stride: [1, stride, 1 + stride % 2],
                        padding: [0, padding, 2],
                        dilation: [1, dilation, 1],
                        groups,
                        ..plain(6, outputs, 3)
                    };
                    check_painted(params, [1, 9, 11], 1);
                }
            }
        }
    }
    // Few outputs of many inputs: too long a copy, several k blocks, four rows and one.
    check_painted(plain(70, 5, 3), [1, 5, 9], 1);
    check_painted(plain(30, 2, 3), [1, 90, 90], 1);
    let solid = ConvParams {
        kernel_size: [3, 2, 4],
        stride: [2, 1, 3],
        padding: [1, 1, 2],
        dilation: [1, 3, 2],
        groups: 3,
        ..plain(9, 6, 1)
    };
    check_painted(solid, [5, 6, 17], 2);
}

#[test]
fn transposed_equals_reference() {
    for stride in [1, 2, 3] {
        for (padding, more) in [(0, 0), (1, 1), (2, 0)] {
            for dilation in [1, 2] {
                let params = ConvParams {
                    stride: [1, stride, stride],
                    padding: [0, padding, 1],
                    dilation: [1, dilation, 1],
                    groups: 2,
                    transposed: Some([0, more.min(stride - 1), 0]),
                    ..plain(4, 6, 4)
                };
                check_painted(params, [1, 5, 40], 2);
            }
        }
    }
    // Strides beyond the kernel leave outputs without a tap.
    let sparse = ConvParams {
        stride: [2, 3, 4],
        padding: [0; 3],
        transposed: Some([1, 2, 3]),
        ..plain(3, 2, 2)
    };
    let (weight, bias) = (painted(2, sparse.weight_len()), [0.5, -0.25]);
    let y = check(
        OperandKind::F32,
        sparse,
        [2, 3, 3],
        &painted(1, 54),
        &weight,
        Some(&bias),
    );
    assert!(
        y.iter().filter(|&&y| y == 0.5).count() > 100,
        "no output is without a tap"
    );
}

#[test]
fn many_outputs_and_long_sums() {
    // More rows than a task takes, several k blocks, several slabs of positions.
    check_painted(plain(30, 800, 3), [1, 6, 12], 1);
    check_painted(plain(16, 40, 3), [1, 40, 41], 1);
}

#[test]
fn special_values() {
    let params = plain(5, 4, 3);
    let len = volume(&params, [1, 7, 20]);
    for (x, weight) in [
        (painted_wide(1, len), painted_wide(2, params.weight_len())),
        (painted_special(3, len, 40), painted(4, params.weight_len())),
        (painted(5, len), painted_special(6, params.weight_len(), 40)),
    ] {
        for kind in KINDS {
            check(kind, params, [1, 7, 20], &x, &weight, Some(&[-0.0; 4]));
        }
    }
    // The border is a zero that is multiplied.
    let mut weight = vec![1.0; params.weight_len()];
    weight[0] = f32::INFINITY;
    let y = check(
        OperandKind::F32,
        params,
        [1, 7, 20],
        &vec![1.0; len],
        &weight,
        None,
    );
    assert!(y[0].is_nan() && y[21].is_infinite(), "{} {}", y[0], y[21]);
}

#[test]
fn a_pointwise_convolution_is_a_linear_layer() {
    let (channels, outputs, positions) = (300, 70, 30);
    let x = painted(1, channels * positions);
    let weight = painted(2, outputs * channels);
    let rows: Vec<f32> = (0..positions)
        .flat_map(|p| (0..channels).map(move |c| (c, p)))
        .map(|(c, p)| x[c * positions + p])
        .collect();
    for kind in KINDS {
        let y = check(
            kind,
            plain(channels, outputs, 1),
            [1, 5, 6],
            &x,
            &weight,
            None,
        );
        let linear = crate::linear::reference::linear(crate::linear::reference::Linear {
            kind,
            k: channels,
            x: &rows,
            weight: &weight,
            bias: None,
            epilogue: crate::linear::Epilogue::None,
        });
        let linear = linear.expect("the lengths agree");
        let turned: Vec<f32> = (0..outputs * positions)
            .map(|i| linear[i % positions * outputs + i / positions])
            .collect();
        assert_bits_equal(format!("{kind:?}"), &y, &turned);
    }
}

/// Variants that the tests above must be able to tell from the contract.
#[test]
fn other_orders_are_noticed() {
    let (channels, len) = (40, 3);
    let params = ConvParams {
        kernel_size: [1, 1, 9],
        padding: [0; 3],
        ..plain(channels, 1, 1)
    };
    let (x, weight) = (painted(1, channels * 11), painted(2, channels * 9));
    let want = reference(OperandKind::F32, &params, &x, [1, 1, 11], &weight, None);
    let want = want.expect("valid arguments");
    let variant = |tap_fastest: bool, block: usize| -> Vec<f32> {
        let output = |o: usize| {
            let (mut total, mut chain) = (0.0, 0.0);
            for k in 0..channels * 9 {
                let (tap, c) = match tap_fastest {
                    true => (k % 9, k / 9),
                    false => (k / channels, k % channels),
                };
                if k % block == 0 {
                    total += chain;
                    chain = 0.0;
                }
                chain = fma(weight[c * 9 + tap], x[c * 11 + o + tap], chain);
            }
            total + chain
        };
        (0..len).map(output).collect()
    };
    assert_bits_equal("the loop of this test", &variant(false, 256), &want);
    assert_bits_differ("the tap fastest", &variant(true, 256), &want);
    assert_bits_differ("one chain", &variant(false, 1 << 20), &want);
}

#[test]
fn golden_v1() {
    let entries = golden::entries("conv");
    assert!(entries.len() >= 8, "{} entries", entries.len());
    for entry in &entries {
        let transposed = entry.has("output_padding");
        let params = ConvParams {
            in_channels: entry.int("in_channels"),
            out_channels: entry.int("out_channels"),
            kernel_size: entry.ints("kernel_size"),
            stride: entry.ints("stride"),
            padding: entry.ints("padding"),
            dilation: entry.ints("dilation"),
            groups: entry.int("groups"),
            transposed: transposed.then(|| entry.ints("output_padding")),
        };
        let input = entry.ints("input_size");
        let x = painted(entry.seed(), entry.int("batch") * volume(&params, input));
        let weight = painted(entry.seed() + 1, params.weight_len());
        let bias = painted(entry.seed() + 2, params.out_channels);
        entry.check(&check(
            entry.kind(),
            params,
            input,
            &x,
            &weight,
            Some(&bias),
        ));
    }
}

#[test]
fn errors_name_argument_expected_and_got() {
    let params = plain(4, 6, 3);
    let output =
        |params: ConvParams, input| params.output_size(input).expect_err("invalid").to_string();
    assert_eq!(
        output(
            ConvParams {
                groups: 4,
                ..params
            },
            [1, 5, 5]
        ),
        "conv: groups is 4, expected a divisor of 4 and 6 channels"
    );
    assert!(output(params, [1, 0, 5]).contains("expected large enough"));
    assert!(
        output(
            ConvParams {
                padding: [0; 3],
                ..params
            },
            [1, 2, 5]
        )
        .contains("expected large enough")
    );
    assert!(
        output(
            ConvParams {
                stride: [1, 0, 1],
                ..params
            },
            [1, 5, 5]
        )
        .contains("expected positive")
    );
    assert_eq!(
        output(
            ConvParams {
                transposed: Some([0, 1, 0]),
                ..params
            },
            [1, 5, 5]
        ),
        "conv: output_padding is [0, 1, 0], expected below stride or dilation"
    );
    let cpu = Cpu::single();
    let error = ConvWeight::pack(&cpu, OperandKind::F32, params, &[0.0; 3]).expect_err("short");
    assert_eq!(
        error.to_string(),
        "conv: weight [N, C/g, KD, KH, KW] has 3 elements, expected 216"
    );
    let weight = ConvWeight::pack(&cpu, OperandKind::F32, params, &[0.0; 216]).expect("valid");
    let op = Conv {
        x: Floats::F32(&[0.0; 100]),
        batch: 1,
        input_size: [1, 5, 5],
        weight: &weight,
        bias: None,
    };
    let message = |op: Conv<'_>, out: usize| {
        let error = op.cpu((&mut vec![0.0; out][..]).into(), &Cpu::single());
        error.expect_err("invalid").to_string()
    };
    assert_eq!(
        message(op, 149),
        "conv: out [B, N, D', H', W'] has 149 elements, expected 150"
    );
    assert_eq!(
        message(Conv { batch: 2, ..op }, 300),
        "conv: x [B, C, D, H, W] has 100 elements, expected 200"
    );
    assert_eq!(
        message(
            Conv {
                bias: Some(&[0.0; 4]),
                ..op
            },
            150
        ),
        "conv: bias [N] has 4 elements, expected 6"
    );
}
