use jetblock_testing::*;

use super::*;
use crate::pieces::{TOKENS, assert_split_does_not_matter};

/// A batch of sequences with their states before and after.
struct Case {
    channels: usize,
    kernel: usize,
    lengths: Vec<usize>,
    /// One value in this many is special.
    every: u32,
    /// Whether each row has taps of its own.
    each_row: bool,
}

impl Default for Case {
    fn default() -> Case {
        Case {
            channels: 33,
            kernel: 4,
            lengths: vec![1, 7, 2, 12],
            every: u32::MAX,
            each_row: false,
        }
    }
}

impl Case {
    const ROW_EXTRA: usize = 5;

    /// Output rows followed by all states, from `run`.
    fn outcome(&self, run: impl Fn(&CausalConv1d, &mut [&mut [f32]], &mut [f32])) -> Vec<f32> {
        let (channels, rows) = (self.channels, self.lengths.iter().sum::<usize>());
        let row_len = channels + Case::ROW_EXTRA;
        let x = painted_special(1, rows * row_len, self.every);
        let kernels = if self.each_row { rows } else { 1 };
        let weight = painted_special(2, kernels * channels * self.kernel, self.every);
        let bias = painted(3, channels);
        let segments = Segment::consecutive(&self.lengths, 7);
        let op = CausalConv1d {
            x: Columns {
                data: &x,
                row_len,
                columns: 3..3 + channels,
            },
            weight: match self.each_row {
                false => Taps::Fixed(&weight),
                true => Taps::EachRow {
                    weight: &weight,
                    kernel: self.kernel,
                },
            },
            bias: (self.kernel != 3).then_some(&bias),
            segments: &segments,
        };
        let state_len = (self.kernel - 1) * channels;
        let mut states = painted_special(4, state_len * segments.len(), self.every);
        let mut parts: Vec<&mut [f32]> = match state_len {
            0 => segments.iter().map(|_| &mut [][..]).collect(),
            _ => states.chunks_mut(state_len).collect(),
        };
        let mut out = Guarded::new(rows * channels);
        run(&op, &mut parts, &mut out);
        out.assert_intact();
        [&out[..], &states].concat()
    }

    fn assert_cpu_equals_reference(&self) {
        let want =
            self.outcome(|op, states, out| op.reference(states, out).expect("valid arguments"));
        for_every_cpu(|cpu| {
            let got =
                self.outcome(|op, states, out| op.cpu(states, out, cpu).expect("valid arguments"));
            let Case {
                channels,
                kernel,
                lengths,
                ..
            } = self;
            assert_bits_equal(
                format!("C = {channels}, K = {kernel}, lengths {lengths:?}"),
                &got,
                &want,
            );
        });
    }
}

#[test]
fn cpu_equals_reference() {
    for each_row in [false, true] {
        for channels in [1, 15, 16, 17, 31, 32, 33, 257, 1025] {
            for every in [3, u32::MAX] {
                Case {
                    channels,
                    lengths: vec![1, 2, 5, 0, 3],
                    every,
                    each_row,
                    ..Case::default()
                }
                .assert_cpu_equals_reference();
            }
        }
        for kernel in 1..=9 {
            Case {
                kernel,
                every: 40,
                each_row,
                ..Case::default()
            }
            .assert_cpu_equals_reference();
        }
        Case {
            channels: 600,
            lengths: vec![70, 1, 33],
            each_row,
            ..Case::default()
        }
        .assert_cpu_equals_reference();
        Case {
            channels: 16,
            lengths: vec![],
            each_row,
            ..Case::default()
        }
        .assert_cpu_equals_reference();
    }
}

#[test]
fn equal_taps_of_each_row_are_the_fixed_ones() {
    let (channels, kernel, rows) = (20, 4, 9);
    let x = painted(1, rows * channels);
    let weight = painted(2, kernel * channels);
    let repeated = weight.repeat(rows);
    let run = |weight| {
        let op = CausalConv1d {
            x: Columns::whole(&x, channels),
            weight,
            bias: None,
            segments: &[Segment {
                rows: 0..rows,
                start: 0,
            }],
        };
        let (mut state, mut out) = (vec![0.0; (kernel - 1) * channels], vec![0.0; x.len()]);
        op.cpu(&mut [&mut state], &mut out, &jetblock_simd::Cpu::single())
            .expect("valid arguments");
        [out, state].concat()
    };
    let want = run(Taps::Fixed(&weight));
    let got = run(Taps::EachRow {
        weight: &repeated,
        kernel,
    });
    assert_bits_equal("the same taps in every row", &got, &want);
    let mut other = repeated.clone();
    other[5 * kernel * channels] += 1.0;
    let got = run(Taps::EachRow {
        weight: &other,
        kernel,
    });
    assert_bits_differ("another tap in row 5", &got, &want);
    assert_bits_equal(
        "the rows before it",
        &got[..5 * channels],
        &want[..5 * channels],
    );
}

#[test]
fn prefill_split_does_not_change_bits() {
    let (channels, kernel) = (20, 4);
    let x = painted(1, TOKENS * channels);
    let weight = painted(2, kernel * channels);
    assert_split_does_not_matter((kernel - 1) * channels, |tokens, state| {
        let op = CausalConv1d {
            x: Columns::rows(&x, channels, &tokens),
            weight: Taps::Fixed(&weight),
            bias: None,
            segments: &Segment::consecutive(&[tokens.len()], tokens.start),
        };
        let mut y = vec![0.0; tokens.len() * channels];
        op.cpu(&mut [state], &mut y, &jetblock_simd::Cpu::single())
            .expect("valid arguments");
        y
    });
}

#[test]
fn the_last_kernel_row_multiplies_the_current_token() {
    // A checkpoint's [C, 1, K] with C = 2: channel 0 passes the current token, channel 1 the one three before.
    let weight = transpose_weight(&[0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0, 0.0], 2);
    let x = [1.0, 10.0, 2.0, 20.0, 3.0, 30.0, 4.0, 40.0];
    let segments = [Segment {
        rows: 0..4,
        start: 0,
    }];
    let op = CausalConv1d {
        x: Columns::whole(&x, 2),
        weight: Taps::Fixed(&weight),
        bias: None,
        segments: &segments,
    };
    let (mut state, mut out) = (vec![0.0; 6], vec![9.0; 8]);
    op.reference(&mut [&mut state], &mut out)
        .expect("valid arguments");
    let silu = jetblock_numerics::math::silu::<f32>;
    assert_bits_equal(
        "rows",
        &out,
        &[
            silu(1.0),
            0.0,
            silu(2.0),
            0.0,
            silu(3.0),
            0.0,
            silu(4.0),
            silu(10.0),
        ],
    );
    assert_bits_equal(
        "state, oldest row first",
        &state,
        &[2.0, 20.0, 3.0, 30.0, 4.0, 40.0],
    );
}

#[test]
fn errors_name_argument_expected_and_got() {
    let x = [0.0; 12];
    let segments = [
        Segment {
            rows: 0..2,
            start: 0,
        },
        Segment {
            rows: 3..4,
            start: 0,
        },
    ];
    let op = CausalConv1d {
        x: Columns::whole(&x, 3),
        weight: Taps::Fixed(&x),
        bias: None,
        segments: &segments[..1],
    };
    let message = |op: &CausalConv1d| op.check().expect_err("invalid").to_string();
    assert_eq!(
        message(&op),
        "causal_conv1d: segments is 2 rows covered, expected segments that cover 4 rows"
    );
    assert_eq!(
        message(&CausalConv1d {
            segments: &segments,
            ..op.clone()
        }),
        "causal_conv1d: segments is 3..4, expected consecutive rows from 2"
    );
    assert_eq!(
        message(&CausalConv1d {
            weight: Taps::Fixed(&x[..4]),
            ..op.clone()
        }),
        "causal_conv1d: weight [K, C] is 4 elements, expected a positive multiple of C = 3 elements"
    );
    assert_eq!(
        message(&CausalConv1d {
            weight: Taps::EachRow {
                weight: &x,
                kernel: 2
            },
            ..op.clone()
        }),
        "causal_conv1d: weight [R, K, C] has 12 elements, expected 24"
    );
    let whole = [Segment {
        rows: 0..4,
        start: 0,
    }];
    let op = CausalConv1d {
        segments: &whole,
        ..op
    };
    let short = op.cpu(
        &mut [&mut [0.0; 8]],
        &mut [0.0; 12],
        &jetblock_simd::Cpu::single(),
    );
    assert_eq!(
        short.expect_err("short").to_string(),
        "causal_conv1d: state [K - 1, C] has 8 elements, expected 9"
    );
}
