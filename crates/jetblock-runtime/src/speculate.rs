//! Guesses at the next tokens from the text so far, to be checked by the model several at a time.
//!
//! A guess costs rows in a step that reads the weights anyway. Each token is drawn from the logits of its own position, as
//! without a guess; a guess that differs from the draw is dropped and the state goes back to the copy made before the step.
//! So guesses change when a row is computed, and nothing else.

/// The longest and the shortest run of tokens that is looked up.
const LONGEST: usize = 4;
const SHORTEST: usize = 2;
/// How far back an earlier occurrence is looked for.
const WINDOW: usize = 1 << 14;

/// What followed the last tokens when they occurred before: `len` guesses, or none.
///
/// Longer runs are looked up first; of several occurrences the latest counts. Where it reaches into the end of the
/// text, the guesses go on with guesses: a text that repeats a line is guessed to repeat it again.
pub(crate) fn draft(tokens: &[u32], len: usize) -> Vec<u32> {
    for run in (SHORTEST..=LONGEST).rev() {
        let Some(start) = tokens.len().checked_sub(run) else {
            continue;
        };
        let last = &tokens[start..];
        let earliest = start.saturating_sub(WINDOW);
        let found = (earliest..start)
            .rev()
            .find(|&at| tokens[at..at + run] == *last);
        if let Some(at) = found {
            let mut draft = Vec::with_capacity(len);
            for next in at + run..at + run + len {
                let guess = match next.checked_sub(tokens.len()) {
                    None => tokens[next],
                    Some(guessed) => draft[guessed],
                };
                draft.push(guess);
            }
            return draft;
        }
    }
    Vec::new()
}

/// How many guesses to make, from how well the last ones did.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DraftLength {
    len: usize,
    most: usize,
}

impl DraftLength {
    pub(crate) fn new(most: usize) -> DraftLength {
        DraftLength {
            len: most.min(2),
            most,
        }
    }

    pub(crate) fn get(self) -> usize {
        self.len
    }

    /// Twice as many after a draft that was right to its end; as many as were right otherwise, at least one.
    pub(crate) fn learn(&mut self, drafted: usize, accepted: usize) {
        self.len = if accepted == drafted {
            (2 * drafted).max(self.len).min(self.most)
        } else {
            accepted.max(1).min(self.most)
        };
    }

    /// No guesses any more.
    pub(crate) fn stop(&mut self) {
        (self.len, self.most) = (0, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_occurrence_of_the_longest_run_is_continued() {
        let tokens = [1, 2, 3, 4, 9, 9, 3, 4, 5, 6, 1, 2, 3, 4];
        assert_eq!(draft(&tokens, 2), [9, 9]);
        assert_eq!(draft(&tokens, 12), [&tokens[4..], &[9, 9]].concat());
        assert_eq!(draft(&[7, 3, 4, 5, 6, 3, 4], 1), [5]);
        assert_eq!(draft(&[3, 4, 8, 3, 4, 5, 3, 4], 1), [5]);
        assert_eq!(draft(&[8, 5, 5, 5], 4), [5; 4]);
        for nothing in [&[][..], &[1], &[1, 2, 3, 4, 5, 6]] {
            assert_eq!(draft(nothing, 4), [0; 0]);
        }
        assert_eq!(draft(&tokens, 0), [0; 0]);
    }

    #[test]
    fn the_length_follows_success() {
        let mut length = DraftLength::new(8);
        length.learn(2, 2);
        length.learn(4, 4);
        assert_eq!(length.get(), 8);
        length.learn(8, 3);
        assert_eq!(length.get(), 3);
        length.learn(3, 0);
        assert_eq!(length.get(), 1);
        length.stop();
        length.learn(0, 0);
        assert_eq!(length.get(), 0);
        assert_eq!(DraftLength::new(0).get(), 0);
    }
}
