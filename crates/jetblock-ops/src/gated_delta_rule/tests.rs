use jetblock_numerics::math::{exp, rsqrt};
use jetblock_numerics::{fma, reduce};
use jetblock_simd::Cpu;
use jetblock_testing::*;

use super::*;
use crate::columns_of_state::TOKENS as PIECE;
use crate::pieces::{TOKENS, assert_split_does_not_matter};

/// A batch of sequences.
#[derive(Clone)]
struct Case {
    heads: usize,
    groups: usize,
    keys: usize,
    values: usize,
    lengths: Vec<usize>,
    qk_l2norm: bool,
    /// One value in this many is special.
    every: u32,
}

impl Default for Case {
    fn default() -> Case {
        Case {
            heads: 4,
            groups: 2,
            keys: 12,
            values: 20,
            lengths: vec![5],
            qk_l2norm: true,
            every: u32::MAX,
        }
    }
}

/// Output rows and states of a run.
#[derive(Debug, PartialEq)]
struct Outcome {
    o: Vec<f32>,
    states: Vec<f32>,
}

impl Case {
    /// Runs on painted inputs, all columns of one matrix.
    fn outcome(&self, run: impl Fn(&GatedDeltaRule, &mut [&mut [f32]], &mut [f32])) -> Outcome {
        let (key_width, value_width) = (self.groups * self.keys, self.heads * self.values);
        let rows = self.lengths.iter().sum::<usize>();
        let row_len = 2 * key_width + value_width + 2 * self.heads + 3;
        let mut input = painted_special(1, rows * row_len, self.every);
        let beta = 2 + 2 * key_width + value_width;
        for row in input.chunks_mut(row_len) {
            // Logarithms of decays are not positive, corrections not above 1.
            for x in &mut row[beta..beta + 2 * self.heads] {
                *x = -x.abs().clamp(0.0, 1.0);
            }
            for x in &mut row[beta..beta + self.heads] {
                *x = -*x;
            }
        }
        let columns = |start, width| Columns {
            data: &input,
            row_len,
            columns: start..start + width,
        };
        let segments = Segment::consecutive(&self.lengths, 0);
        let op = GatedDeltaRule {
            q: columns(1, key_width),
            k: columns(1 + key_width, key_width),
            v: columns(2 + 2 * key_width, value_width),
            beta: columns(beta, self.heads),
            g: columns(beta + self.heads, self.heads),
            groups: self.groups,
            scale: 0.3,
            qk_l2norm: self.qk_l2norm,
            segments: &segments,
        };
        let state_len = value_width * self.keys;
        let mut states = painted_special(5, state_len * segments.len(), self.every.max(100));
        let mut o = Guarded::new(rows * value_width);
        let mut parts: Vec<_> = states.chunks_mut(state_len).collect();
        run(&op, &mut parts, &mut o);
        o.assert_intact();
        Outcome {
            o: o.to_vec(),
            states,
        }
    }

    fn assert_cpu_equals_reference(&self) {
        let want = self.outcome(|op, states, out| op.reference(states, out).expect("valid"));
        for_every_cpu(|cpu| {
            let got = self.outcome(|op, states, out| op.cpu(states, out, cpu).expect("valid"));
            let Case {
                heads,
                keys,
                values,
                lengths,
                ..
            } = self;
            let name = format!("H = {heads}, K = {keys}, V = {values}, lengths {lengths:?}");
            assert_bits_equal(format!("o, {name}"), &got.o, &want.o);
            assert_bits_equal(format!("states, {name}"), &got.states, &want.states);
        });
    }
}

#[test]
fn cpu_equals_reference() {
    for values in [1, 7, 8, 15, 16, 17, 31, 32, 33, 64, 65, 100] {
        Case {
            values,
            lengths: vec![3, 1, 0, 2],
            ..Case::default()
        }
        .assert_cpu_equals_reference();
    }
    for keys in [1, 31, 64, 255, 256, 257, 513] {
        Case {
            keys,
            heads: 2,
            groups: 1,
            values: 33,
            lengths: vec![1, 4],
            ..Case::default()
        }
        .assert_cpu_equals_reference();
    }
    for every in [5, 50, 2000] {
        for qk_l2norm in [false, true] {
            Case {
                every,
                qk_l2norm,
                lengths: vec![4, 1, 19, 2],
                ..Case::default()
            }
            .assert_cpu_equals_reference();
        }
    }
    for (heads, groups) in [(1, 1), (3, 3), (6, 2), (33, 11)] {
        Case {
            heads,
            groups,
            lengths: vec![2],
            ..Case::default()
        }
        .assert_cpu_equals_reference();
    }
}

#[test]
fn tokens_beyond_a_piece_equal_the_reference() {
    for values in [5, 40, 64] {
        Case {
            values,
            lengths: vec![2 * PIECE + 17, 1, PIECE, 0, PIECE + 1, 3 * PIECE - 1],
            every: 2000,
            ..Case::default()
        }
        .assert_cpu_equals_reference();
    }
    // So many keys that fewer tokens are a piece.
    Case {
        keys: 3000,
        heads: 1,
        groups: 1,
        values: 3,
        lengths: vec![2 * PIECE + 1],
        ..Case::default()
    }
    .assert_cpu_equals_reference();
}

#[test]
fn prefill_split_does_not_change_bits() {
    let (heads, keys, values) = (2, 20, 37);
    let (q, k) = (painted(1, TOKENS * keys), painted(2, TOKENS * keys));
    let v = painted(3, TOKENS * heads * values);
    let gates: Vec<f32> = painted(4, 2 * TOKENS * heads)
        .iter()
        .map(|x| x.abs())
        .collect();
    let (beta, g) = gates.split_at(TOKENS * heads);
    let g: Vec<f32> = g.iter().map(|g| -g).collect();
    assert_split_does_not_matter(heads * keys * values, |tokens, state| {
        let op = GatedDeltaRule {
            q: Columns::rows(&q, keys, &tokens),
            k: Columns::rows(&k, keys, &tokens),
            v: Columns::rows(&v, heads * values, &tokens),
            g: Columns::rows(&g, heads, &tokens),
            beta: Columns::rows(beta, heads, &tokens),
            groups: 1,
            scale: 0.25,
            qk_l2norm: true,
            segments: &Segment::consecutive(&[tokens.len()], 0),
        };
        let mut o = vec![0.0; tokens.len() * heads * values];
        op.cpu(&mut [state], &mut o, &Cpu::single())
            .expect("valid arguments");
        o
    });
}

/// How a step deviates from the definition.
#[derive(Clone, Copy, PartialEq)]
enum Deviation {
    None,
    DecayFused,
    BetaIntoK,
    ReadBeforeDecay,
    ReadBeforeWrite,
    ScaleAfter,
}

/// One head with V = 1, written out once more.
fn written_out(deviation: Deviation, rows: usize, [q, k, v, g, beta]: [&[f32]; 5]) -> Vec<f32> {
    let keys = q.len() / rows;
    let (mut state, mut out) = (vec![0.0_f32; keys], Vec::new());
    for t in 0..rows {
        let unit = |x: &[f32]| -> Vec<f32> {
            let factor = rsqrt(reduce::sum_of_squares(x) + L2_EPS);
            x.iter().map(|x| x * factor).collect()
        };
        let (q, k) = (&q[t * keys..][..keys], &k[t * keys..][..keys]);
        let (mut q, k) = (unit(q), unit(k));
        if deviation != Deviation::ScaleAfter {
            q.iter_mut().for_each(|q| *q *= 0.3);
        }
        let decay = exp(g[t]);
        let old = state.clone();
        let decayed: Vec<f32> = old.iter().map(|s| decay * s).collect();
        let read = match deviation {
            Deviation::ReadBeforeDecay => decay * reduce::dot_f32(&k, &old),
            _ => reduce::dot_f32(&k, &decayed),
        };
        for i in 0..keys {
            state[i] = match deviation {
                Deviation::DecayFused => fma(decay, old[i], k[i] * (beta[t] * (v[t] - read))),
                Deviation::BetaIntoK => fma(k[i] * beta[t], v[t] - read, decayed[i]),
                _ => fma(k[i], beta[t] * (v[t] - read), decayed[i]),
            };
        }
        let seen = match deviation {
            Deviation::ReadBeforeWrite => &decayed,
            _ => &state,
        };
        let o = reduce::dot_f32(&q, seen);
        out.push(match deviation {
            Deviation::ScaleAfter => o * 0.3,
            _ => o,
        });
    }
    [out, state].concat()
}

#[test]
fn rounding_points_are_felt() {
    let (rows, keys) = (6, 300);
    let (q, k) = (painted(1, rows * keys), painted(2, rows * keys));
    let v = painted(3, rows);
    let (g, beta) = (
        &[-0.1, -0.7, -0.01, -1.5, -0.3, -0.2],
        &[0.9, 0.3, 0.5, 0.7, 0.1, 0.8],
    );
    let op = GatedDeltaRule {
        q: Columns::whole(&q, keys),
        k: Columns::whole(&k, keys),
        v: Columns::whole(&v, 1),
        g: Columns::whole(g, 1),
        beta: Columns::whole(beta, 1),
        groups: 1,
        scale: 0.3,
        qk_l2norm: true,
        segments: &Segment::consecutive(&[rows], 0),
    };
    let (mut state, mut out) = (vec![0.0; keys], vec![0.0; rows]);
    op.cpu(&mut [&mut state], &mut out, &Cpu::single())
        .expect("valid arguments");
    let got = [out, state].concat();
    let run = |deviation| written_out(deviation, rows, [&q, &k, &v, g, beta]);
    assert_bits_equal("written out", &got, &run(Deviation::None));
    for (name, deviation) in [
        ("the decay fused into the update", Deviation::DecayFused),
        ("beta into k", Deviation::BetaIntoK),
        ("read before the decay", Deviation::ReadBeforeDecay),
        ("read before the write", Deviation::ReadBeforeWrite),
        ("scale on the output", Deviation::ScaleAfter),
    ] {
        assert_bits_differ(name, &run(deviation), &got);
    }
}

#[test]
fn what_was_written_is_read_back() {
    // With beta 1, no decay and keys at right angles, a later query finds the value of its key: the rule is a memory.
    let keys = 4;
    let mut k = vec![0.0; 3 * keys];
    (k[0], k[keys + 1], k[2 * keys]) = (2.0, 3.0, 5.0);
    let v = [7.0, 11.0, 13.0];
    let mut q = vec![0.0; 3 * keys];
    (q[0], q[keys], q[2 * keys]) = (1.0, 1.0, 1.0);
    let op = GatedDeltaRule {
        q: Columns::whole(&q, keys),
        k: Columns::whole(&k, keys),
        v: Columns::whole(&v, 1),
        g: Columns::whole(&[0.0; 3], 1),
        beta: Columns::whole(&[1.0; 3], 1),
        groups: 1,
        scale: 1.0,
        qk_l2norm: true,
        segments: &Segment::consecutive(&[3], 0),
    };
    let mut out = vec![0.0; 3];
    op.cpu(&mut [&mut vec![0.0; keys]], &mut out, &Cpu::single())
        .expect("valid arguments");
    // Key 0 holds 7, still holds it after key 1 was written, and 13 after it was written again.
    for (got, want) in out.iter().zip([7.0, 7.0, 13.0]) {
        assert!((got - want).abs() < 1e-4, "{got}, expected {want}");
    }
}

#[test]
fn errors_name_argument_expected_and_got() {
    Case::default().outcome(|op, states, out| {
        out.fill(0.0);
        assert_eq!(op.check(), Ok(()));
        let message = |op: GatedDeltaRule| op.check().expect_err("invalid").to_string();
        let base = || op.clone();
        assert_eq!(
            message(GatedDeltaRule {
                groups: 3,
                ..base()
            }),
            "gated_delta_rule: groups is 3, expected a divisor of H = 4"
        );
        assert_eq!(
            message(GatedDeltaRule {
                k: op.v.clone(),
                ..base()
            }),
            "gated_delta_rule: k [R, G, K] is 80 columns, expected 24 columns"
        );
        assert_eq!(
            message(GatedDeltaRule {
                beta: op.q.clone(),
                ..base()
            }),
            "gated_delta_rule: beta [R, H] is 24 columns, expected 4 columns"
        );
        let missing = op
            .cpu(&mut states[..0], out, &Cpu::single())
            .expect_err("no state");
        assert_eq!(
            missing.to_string(),
            "gated_delta_rule: states, one for each segment, has 0 elements, expected 1"
        );
    });
}
