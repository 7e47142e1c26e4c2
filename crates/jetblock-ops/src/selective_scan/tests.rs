use jetblock_numerics::{fma, math};
use jetblock_simd::Cpu;
use jetblock_testing::*;

use super::*;
use crate::pieces::{TOKENS, assert_split_does_not_matter};

/// A batch of sequences.
#[derive(Clone)]
struct Case {
    heads: usize,
    groups: usize,
    head_dim: usize,
    state_len: usize,
    lengths: Vec<usize>,
    /// One value in this many is special.
    every: u32,
    dt_limit: (f32, f32),
}

impl Default for Case {
    fn default() -> Case {
        Case {
            heads: 4,
            groups: 2,
            head_dim: 8,
            state_len: 40,
            lengths: vec![5],
            every: u32::MAX,
            dt_limit: (0.0, f32::INFINITY),
        }
    }
}

/// Output rows and states of a run.
#[derive(Debug, PartialEq)]
struct Outcome {
    y: Vec<f32>,
    states: Vec<f32>,
}

impl Case {
    /// Runs on painted inputs; all four row inputs are columns of one matrix.
    fn outcome(&self, run: impl Fn(&SelectiveScan, &mut [&mut [f32]], &mut [f32])) -> Outcome {
        let (inner, bc) = (self.heads * self.head_dim, self.groups * self.state_len);
        let (rows, row_len) = (
            self.lengths.iter().sum::<usize>(),
            inner + 2 * bc + self.heads + 3,
        );
        let input = painted_special(1, rows * row_len, self.every);
        let columns = |start, width| Columns {
            data: &input,
            row_len,
            columns: start..start + width,
        };
        let a = decay_rates(&painted(2, self.heads));
        let (dt_bias, d) = (painted(3, self.heads), painted(4, self.heads));
        let segments = Segment::consecutive(&self.lengths, 0);
        let op = SelectiveScan {
            x: columns(1, inner),
            b: columns(1 + inner, bc),
            c: columns(1 + inner + bc, bc),
            dt_raw: columns(2 + inner + 2 * bc, self.heads),
            dt_bias: &dt_bias,
            a: &a,
            d: &d,
            groups: self.groups,
            dt_limit: self.dt_limit,
            segments: &segments,
        };
        let state_len = inner * self.state_len;
        let mut states = painted_special(5, state_len * segments.len(), self.every.max(100));
        let mut y = Guarded::new(rows * inner);
        run(
            &op,
            &mut states.chunks_mut(state_len).collect::<Vec<_>>(),
            &mut y,
        );
        y.assert_intact();
        Outcome {
            y: y.to_vec(),
            states,
        }
    }

    fn reference(&self) -> Outcome {
        self.outcome(|op, states, out| op.reference(states, out).expect("valid arguments"))
    }

    fn assert_cpu_equals_reference(&self) {
        let want = self.reference();
        for_every_cpu(|cpu| {
            let got =
                self.outcome(|op, states, out| op.cpu(states, out, cpu).expect("valid arguments"));
            let Case {
                heads,
                head_dim,
                state_len,
                lengths,
                ..
            } = self;
            let name = format!("H = {heads}, P = {head_dim}, N = {state_len}, lengths {lengths:?}");
            assert_bits_equal(format!("y, {name}"), &got.y, &want.y);
            assert_bits_equal(format!("states, {name}"), &got.states, &want.states);
        });
    }
}

#[test]
fn cpu_equals_reference() {
    for head_dim in [1, 7, 8, 15, 16, 17, 31, 32, 33, 64, 65, 127] {
        Case {
            head_dim,
            lengths: vec![3, 1, 0, 2],
            ..Case::default()
        }
        .assert_cpu_equals_reference();
    }
    for state_len in [1, 31, 32, 33, 64, 100, 128] {
        Case {
            state_len,
            head_dim: 64,
            lengths: vec![1, 4],
            ..Case::default()
        }
        .assert_cpu_equals_reference();
    }
    for len in [1, 2, 15, 16, 17, 31, 32, 33, 50] {
        Case {
            head_dim: 65,
            heads: 2,
            lengths: vec![len],
            ..Case::default()
        }
        .assert_cpu_equals_reference();
    }
    for every in [5, 50, 2000] {
        let lengths = vec![4, 1, 19, 2];
        Case {
            every,
            head_dim: 37,
            lengths,
            ..Case::default()
        }
        .assert_cpu_equals_reference();
    }
    for (heads, groups) in [(1, 1), (3, 3), (6, 2), (33, 11)] {
        Case {
            heads,
            groups,
            lengths: vec![2],
            dt_limit: (0.5, 1.0),
            ..Case::default()
        }
        .assert_cpu_equals_reference();
    }
}

#[test]
fn prefill_split_does_not_change_bits() {
    let (heads, head_dim, state_len) = (2, 20, 40);
    let inner = heads * head_dim;
    let x = painted(1, TOKENS * inner);
    let (b, c) = (
        painted(2, TOKENS * state_len),
        painted(3, TOKENS * state_len),
    );
    let dt_raw = painted(4, TOKENS * heads);
    assert_split_does_not_matter(inner * state_len, |tokens, state| {
        let op = SelectiveScan {
            x: Columns::rows(&x, inner, &tokens),
            b: Columns::rows(&b, state_len, &tokens),
            c: Columns::rows(&c, state_len, &tokens),
            dt_raw: Columns::rows(&dt_raw, heads, &tokens),
            dt_bias: &[0.5, -0.5],
            a: &[-1.0, -0.25],
            d: &[1.0, 2.0],
            groups: 1,
            dt_limit: (0.0, f32::INFINITY),
            segments: &Segment::consecutive(&[tokens.len()], tokens.start),
        };
        let mut y = vec![0.0; tokens.len() * inner];
        op.cpu(&mut [state], &mut y, &Cpu::single())
            .expect("valid arguments");
        y
    });
}

/// How a step deviates from the definition.
#[derive(Clone, Copy, PartialEq)]
enum Deviation {
    None,
    FusedProduct,
    UnblockedDot,
    SkipFirst,
    DtTimesB,
}

/// One token, one head, P = 1, written out once more.
fn step(
    deviation: Deviation,
    state: &mut [f32],
    [x, dt, decay, d]: [f32; 4],
    b: &[f32],
    c: &[f32],
) -> f32 {
    let v = dt * x;
    for n in 0..state.len() {
        state[n] = match deviation {
            Deviation::FusedProduct => fma(v, b[n], decay * state[n]),
            Deviation::DtTimesB => fma(decay, state[n], x * (dt * b[n])),
            _ => fma(decay, state[n], v * b[n]),
        };
    }
    let (mut total, mut chain) = (0.0, 0.0);
    for n in 0..state.len() {
        chain = fma(state[n], c[n], chain);
        if n % 32 == 31 && deviation != Deviation::UnblockedDot {
            total += chain;
            chain = 0.0;
        }
    }
    total += chain;
    if deviation == Deviation::SkipFirst {
        fma(d, x, 0.0) + total
    } else {
        fma(d, x, total)
    }
}

#[test]
fn rounding_points_are_felt() {
    let rows = 6;
    let (x, b, c, dt_raw) = (
        painted(1, rows),
        painted(2, rows * 70),
        painted(3, rows * 70),
        painted(4, rows),
    );
    let run = |deviation| {
        let (mut state, mut out) = (vec![0.0; 70], Vec::new());
        for t in 0..rows {
            let dt = math::softplus(dt_raw[t] + 0.5);
            let scalars = [x[t], dt, exp(dt * -0.5), 1.5];
            let columns = t * 70..(t + 1) * 70;
            out.push(step(
                deviation,
                &mut state,
                scalars,
                &b[columns.clone()],
                &c[columns],
            ));
        }
        [out, state].concat()
    };
    let op = SelectiveScan {
        x: Columns::whole(&x, 1),
        b: Columns::whole(&b, 70),
        c: Columns::whole(&c, 70),
        dt_raw: Columns::whole(&dt_raw, 1),
        dt_bias: &[0.5],
        a: &[-0.5],
        d: &[1.5],
        groups: 1,
        dt_limit: (0.0, f32::INFINITY),
        segments: &[Segment {
            rows: 0..rows,
            start: 0,
        }],
    };
    let (mut state, mut out) = (vec![0.0; 70], vec![0.0; rows]);
    op.cpu(&mut [&mut state], &mut out, &Cpu::single())
        .expect("valid arguments");
    let got = [out, state].concat();
    assert_bits_equal("written out", &got, &run(Deviation::None));
    assert_bits_differ(
        "v * B fused into the update",
        &run(Deviation::FusedProduct),
        &got,
    );
    assert_bits_differ("one chain over all n", &run(Deviation::UnblockedDot), &got);
    assert_bits_differ("skip rounded on its own", &run(Deviation::SkipFirst), &got);
    assert_bits_differ("dt into B", &run(Deviation::DtTimesB), &got);
}

#[test]
fn sequences_do_not_meet() {
    let case = Case {
        lengths: vec![3, 9, 1],
        head_dim: 33,
        ..Case::default()
    };
    let together = case.reference();
    let alone = case.outcome(|op, states, out| {
        for (segment, state) in op.segments.iter().zip(states) {
            let rows =
                |c: &Columns<'_>| segment.rows.start * c.row_len..segment.rows.end * c.row_len;
            let op = SelectiveScan {
                x: Columns {
                    data: &op.x.data[rows(&op.x)],
                    ..op.x.clone()
                },
                b: Columns {
                    data: &op.b.data[rows(&op.b)],
                    ..op.b.clone()
                },
                c: Columns {
                    data: &op.c.data[rows(&op.c)],
                    ..op.c.clone()
                },
                dt_raw: Columns {
                    data: &op.dt_raw.data[rows(&op.dt_raw)],
                    ..op.dt_raw.clone()
                },
                segments: &[Segment {
                    rows: 0..segment.len(),
                    start: 0,
                }],
                ..op.clone()
            };
            let inner = op.x.width();
            let out = &mut out[segment.rows.start * inner..segment.rows.end * inner];
            op.cpu(&mut [state], out, &Cpu::single())
                .expect("valid arguments");
        }
    });
    assert_bits_equal("rows", &alone.y, &together.y);
    assert_bits_equal("states", &alone.states, &together.states);
}

#[test]
fn canonical_layout_is_the_transpose_of_each_head() {
    let state: Vec<f32> = (0..12).map(|i| i as f32).collect();
    let canonical = state_to_canonical(&state, 3, 2);
    assert_eq!(
        canonical,
        [0.0, 2.0, 4.0, 1.0, 3.0, 5.0, 6.0, 8.0, 10.0, 7.0, 9.0, 11.0]
    );
    assert_eq!(state_from_canonical(&canonical, 3, 2), state);
}

#[test]
fn errors_name_argument_expected_and_got() {
    Case::default().outcome(|op, states, out| {
        out.fill(0.0);
        assert_eq!(op.check(), Ok(()));
        let message = |op: SelectiveScan| op.check().expect_err("invalid").to_string();
        let base = || op.clone();
        assert_eq!(
            message(SelectiveScan {
                groups: 3,
                ..base()
            }),
            "selective_scan: groups is 3, expected a divisor of H = 4"
        );
        assert_eq!(
            message(SelectiveScan {
                dt_limit: (1.0, 0.5),
                ..base()
            }),
            "selective_scan: dt_limit is (1, 0.5), expected 0 <= least <= greatest"
        );
        assert!(
            SelectiveScan {
                dt_limit: (0.0, f32::NAN),
                ..base()
            }
            .check()
            .is_err()
        );
        assert_eq!(
            message(SelectiveScan {
                a: &[1.0],
                ..base()
            }),
            "selective_scan: a [H] has 1 elements, expected 4"
        );
        assert_eq!(
            message(SelectiveScan {
                c: op.x.clone(),
                ..base()
            }),
            "selective_scan: c [R, G, N] is 32 columns, expected 80 columns"
        );
        let missing = op
            .cpu(&mut states[..0], out, &Cpu::single())
            .expect_err("no state")
            .to_string();
        assert_eq!(
            missing,
            "selective_scan: states, one for each segment, has 0 elements, expected 1"
        );
    });
}
