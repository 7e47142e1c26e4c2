//! For tests of operators with a state: how a sequence is cut into pieces changes no bit.

use std::ops::Range;

use jetblock_testing::{assert_bits_differ, assert_bits_equal};

/// Tokens of the sequence that is cut.
pub(crate) const TOKENS: usize = 21;

/// Expects all rows and the last state to be the same however 21 tokens are fed, and others where a piece forgets the
/// state: `feed` computes the rows of some tokens and advances the state, of `state_len` zeros at first.
pub(crate) fn assert_split_does_not_matter(
    state_len: usize,
    feed: impl Fn(Range<usize>, &mut [f32]) -> Vec<f32>,
) {
    let run = |pieces: &[usize], forget: bool| {
        let (mut state, mut out, mut start) = (vec![0.0; state_len], Vec::new(), 0);
        for piece in pieces {
            if forget {
                state.fill(0.0);
            }
            out.extend(feed(start..start + piece, &mut state));
            start += piece;
        }
        assert_eq!(start, TOKENS);
        [out, state].concat()
    };
    let want = run(&[TOKENS], false);
    for pieces in [&[1; TOKENS][..], &[2, 1, 18], &[16, 5], &[17, 4], &[20, 1]] {
        assert_bits_equal(format!("pieces {pieces:?}"), &run(pieces, false), &want);
    }
    let forgotten = run(&[16, 5], true);
    assert_bits_differ("state forgotten between pieces", &forgotten, &want);
}
