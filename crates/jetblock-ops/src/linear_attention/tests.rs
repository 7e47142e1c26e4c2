use jetblock_numerics::{fma, math::exp, reduce};
use jetblock_simd::Cpu;
use jetblock_testing::*;

use super::*;
use crate::columns_of_state::TOKENS as PIECE;
use crate::pieces::{TOKENS, assert_split_does_not_matter};

/// A batch of sequences.
#[derive(Clone)]
struct Case {
    heads: usize,
    keys: usize,
    values: usize,
    lengths: Vec<usize>,
    /// One value in this many is special.
    every: u32,
}

impl Default for Case {
    fn default() -> Case {
        Case {
            heads: 3,
            keys: 12,
            values: 20,
            lengths: vec![5],
            every: u32::MAX,
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
    /// Runs on painted inputs, all columns of one matrix.
    fn outcome(&self, run: impl Fn(&LinearAttention, &mut [&mut [f32]], &mut [f32])) -> Outcome {
        let (key_width, value_width) = (self.heads * self.keys, self.heads * self.values);
        let rows = self.lengths.iter().sum::<usize>();
        let row_len = 2 * key_width + value_width + 3;
        let input = painted_special(1, rows * row_len, self.every);
        let columns = |start, width| Columns {
            data: &input,
            row_len,
            columns: start..start + width,
        };
        let segments = Segment::consecutive(&self.lengths, 0);
        let op = LinearAttention {
            q: columns(1, key_width),
            k: columns(1 + key_width, key_width),
            v: columns(2 + 2 * key_width, value_width),
            heads: self.heads,
            segments: &segments,
        };
        let state_len = key_width * (self.values + 1);
        let mut states = painted_special(5, state_len * segments.len(), self.every.max(100));
        let mut y = Guarded::new(rows * value_width);
        let mut parts: Vec<_> = states.chunks_mut(state_len).collect();
        run(&op, &mut parts, &mut y);
        y.assert_intact();
        Outcome {
            y: y.to_vec(),
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
            assert_bits_equal(format!("y, {name}"), &got.y, &want.y);
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
    for keys in [1, 31, 64, 255, 256, 257, 1030] {
        Case {
            keys,
            heads: 2,
            values: 33,
            lengths: vec![1, 4],
            ..Case::default()
        }
        .assert_cpu_equals_reference();
    }
    for every in [5, 50, 2000] {
        Case {
            every,
            lengths: vec![4, 1, 19, 2],
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
        values: 3,
        lengths: vec![2 * PIECE + 1],
        ..Case::default()
    }
    .assert_cpu_equals_reference();
}

#[test]
fn prefill_split_does_not_change_bits() {
    let (heads, keys, values) = (2, 20, 37);
    let (key_width, value_width) = (heads * keys, heads * values);
    let (q, k) = (
        painted(1, TOKENS * key_width),
        painted(2, TOKENS * key_width),
    );
    let v = painted(3, TOKENS * value_width);
    assert_split_does_not_matter(key_width * (values + 1), |tokens, state| {
        let op = LinearAttention {
            q: Columns::rows(&q, key_width, &tokens),
            k: Columns::rows(&k, key_width, &tokens),
            v: Columns::rows(&v, value_width, &tokens),
            heads,
            segments: &Segment::consecutive(&[tokens.len()], 0),
        };
        let mut y = vec![0.0; tokens.len() * value_width];
        op.cpu(&mut [state], &mut y, &Cpu::single())
            .expect("valid arguments");
        y
    });
}

/// How a step deviates from the definition.
#[derive(Clone, Copy, PartialEq)]
enum Deviation {
    None,
    ProductRounded,
    ReadBeforeWrite,
    ChainOfWeights,
    DividedFirst,
    NoEpsilon,
}

/// One head with V = 1, written out once more.
fn written_out(deviation: Deviation, keys: usize, [q, k, v]: [&[f32]; 3]) -> Vec<f32> {
    let feature = |&x: &f32| if x > 0.0 { x + 1.0 } else { exp(x) };
    let (mut s, mut z, mut out) = (vec![0.0_f32; keys], vec![0.0_f32; keys], Vec::new());
    for t in 0..v.len() {
        let k: Vec<f32> = k[t * keys..][..keys].iter().map(feature).collect();
        let q: Vec<f32> = q[t * keys..][..keys].iter().map(feature).collect();
        let before = s.clone();
        for i in 0..keys {
            s[i] = match deviation {
                Deviation::ProductRounded => s[i] + k[i] * v[t],
                _ => fma(k[i], v[t], s[i]),
            };
            z[i] += k[i];
        }
        let weights: Vec<f32> = q.iter().zip(&z).map(|(q, z)| q * z).collect();
        let divisor = match deviation {
            Deviation::ChainOfWeights => reduce::dot_f32(&q, &z) + EPS,
            Deviation::NoEpsilon => reduce::sum(&weights),
            _ => reduce::sum(&weights) + EPS,
        };
        let seen = match deviation {
            Deviation::ReadBeforeWrite => &before,
            _ => &s,
        };
        out.push(match deviation {
            Deviation::DividedFirst => {
                let q: Vec<f32> = q.iter().map(|q| q / divisor).collect();
                reduce::dot_f32(&q, seen)
            }
            _ => reduce::dot_f32(&q, seen) / divisor,
        });
    }
    let state = s.iter().zip(&z).flat_map(|(&s, &z)| [s, z]);
    out.into_iter().chain(state).collect()
}

#[test]
fn rounding_points_are_felt() {
    let (rows, keys) = (6, 300);
    let (q, k) = (painted(1, rows * keys), painted(2, rows * keys));
    // So small that 1e-6 is felt in their sum.
    let q: Vec<f32> = q.iter().map(|q| q - 12.0).collect();
    let v = painted(3, rows);
    let op = LinearAttention {
        q: Columns::whole(&q, keys),
        k: Columns::whole(&k, keys),
        v: Columns::whole(&v, 1),
        heads: 1,
        segments: &Segment::consecutive(&[rows], 0),
    };
    let (mut state, mut out) = (vec![0.0; 2 * keys], vec![0.0; rows]);
    op.cpu(&mut [&mut state], &mut out, &Cpu::single())
        .expect("valid arguments");
    let got = [out, state].concat();
    let run = |deviation| written_out(deviation, keys, [&q, &k, &v]);
    assert_bits_equal("written out", &got, &run(Deviation::None));
    for (name, deviation) in [
        ("k v rounded on its own", Deviation::ProductRounded),
        ("read before the write", Deviation::ReadBeforeWrite),
        ("weights added in one chain", Deviation::ChainOfWeights),
        ("divided before the products", Deviation::DividedFirst),
        ("nothing added to the divisor", Deviation::NoEpsilon),
    ] {
        assert_bits_differ(name, &run(deviation), &got);
    }
}

#[test]
fn errors_name_argument_expected_and_got() {
    Case::default().outcome(|op, states, out| {
        out.fill(0.0);
        assert_eq!(op.check(), Ok(()));
        let message = |op: LinearAttention| op.check().expect_err("invalid").to_string();
        let base = || op.clone();
        assert_eq!(
            message(LinearAttention {
                heads: 5,
                ..base()
            }),
            "linear_attention: q [R, H, K] is 36 columns, expected a positive multiple of H = 5 columns"
        );
        assert_eq!(
            message(LinearAttention {
                k: op.v.clone(),
                ..base()
            }),
            "linear_attention: k [R, H, K] is 60 columns, expected 36 columns"
        );
        let missing = op
            .cpu(&mut states[..0], out, &Cpu::single())
            .expect_err("no state");
        assert_eq!(
            missing.to_string(),
            "linear_attention: states, one for each segment, has 0 elements, expected 1"
        );
    });
}
