//! When generation ends: stop tokens, and stop strings found in streamed text.

use crate::TextError;

/// The ids that end a generation: end-of-sequence tokens and any others the request names.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StopTokens(Vec<u32>);

impl StopTokens {
    /// Whether this id ends the generation.
    pub fn contains(&self, id: u32) -> bool {
        self.0.binary_search(&id).is_ok()
    }

    /// The ids, ascending.
    pub fn ids(&self) -> &[u32] {
        &self.0
    }
}

impl FromIterator<u32> for StopTokens {
    fn from_iter<I: IntoIterator<Item = u32>>(ids: I) -> StopTokens {
        let mut ids: Vec<u32> = ids.into_iter().collect();
        ids.sort_unstable();
        ids.dedup();
        StopTokens(ids)
    }
}

/// Most stop strings in one request.
pub const MAX_STOP_STRINGS: usize = 64;

/// Longest stop string.
pub const MAX_STOP_BYTES: usize = 1024;

/// Finds stop strings in text that arrives in pieces.
///
/// Read character by character, the text ends where the first stop string is complete (of several that are complete
/// at the same character, the longest counts), and the output is what stands before that stop string. Text that may
/// still turn into a stop string is held back, so how the text is cut into pieces does not matter.
#[derive(Clone, Debug)]
pub struct StopMatcher {
    stops: Vec<String>,
    held: String,
    found: Option<usize>,
}

impl StopMatcher {
    /// A matcher for these stop strings; none at all is fine and lets everything through.
    pub fn new(
        stops: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<StopMatcher, TextError> {
        let stops: Vec<String> = stops.into_iter().map(Into::into).collect();
        if stops.len() > MAX_STOP_STRINGS {
            let expected = format!("at most {MAX_STOP_STRINGS}");
            return Err(TextError::value(
                "the number of stop strings",
                expected,
                stops.len(),
            ));
        }
        for stop in &stops {
            if stop.is_empty() || stop.len() > MAX_STOP_BYTES {
                let expected = format!("1 to {MAX_STOP_BYTES} bytes");
                return Err(TextError::value(
                    "the length of a stop string",
                    expected,
                    format!("{} bytes", stop.len()),
                ));
            }
        }
        Ok(StopMatcher {
            stops,
            held: String::new(),
            found: None,
        })
    }

    /// Takes more text and returns what is certain to be output. Nothing comes after a stop string was found.
    pub fn push(&mut self, text: &str) -> String {
        if self.found.is_some() {
            return String::new();
        }
        self.held.push_str(text);
        if let Some((index, start)) = self.first_match() {
            self.found = Some(index);
            self.held.truncate(start);
            return std::mem::take(&mut self.held);
        }
        let held = self
            .stops
            .iter()
            .map(|stop| held_len(&self.held, stop))
            .max()
            .unwrap_or(0);
        let kept = self.held.split_off(self.held.len() - held);
        std::mem::replace(&mut self.held, kept)
    }

    /// Like [`push`](Self::push); where this text completes a stop string, also what follows it.
    pub fn push_until<'a>(&mut self, text: &'a str) -> (String, Option<&'a str>) {
        let mut before = String::new();
        // One character at a time, so that the text behind the stop string is known exactly.
        for (at, c) in text.char_indices() {
            let next = at + c.len_utf8();
            before.push_str(&self.push(&text[at..next]));
            if self.found.is_some() {
                return (before, Some(&text[next..]));
            }
        }
        (before, None)
    }

    /// What was held back; call it when generation ended for another reason.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// The index of the stop string that was found.
    pub fn found(&self) -> Option<usize> {
        self.found
    }

    /// The stop string that is complete first, the longest of several, and where it starts.
    fn first_match(&self) -> Option<(usize, usize)> {
        let ends = self.stops.iter().enumerate().filter_map(|(index, stop)| {
            let start = self.held.find(stop)?;
            Some((start + stop.len(), start, index))
        });
        ends.min().map(|(_, start, index)| (index, start))
    }
}

/// The length of the longest end of `text` that is a proper beginning of `stop`.
fn held_len(text: &str, stop: &str) -> usize {
    let (text, stop) = (text.as_bytes(), stop.as_bytes());
    // Bytes suffice: both are UTF-8, and a beginning of `stop` that ends inside a character cannot end `text`.
    (1..stop.len().min(text.len() + 1))
        .rev()
        .find(|&len| text.ends_with(&stop[..len]))
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (String, Option<usize>) {
        let mut matcher = StopMatcher::new(stops.iter().copied()).unwrap();
        let mut out: String = pieces.iter().map(|piece| matcher.push(piece)).collect();
        out.push_str(&matcher.finish());
        (out, matcher.found())
    }

    #[test]
    fn a_stop_string_may_span_pieces() {
        assert_eq!(
            run(&["STOP"], &["a S", "TO", "P b"]),
            ("a ".into(), Some(0))
        );
        assert_eq!(run(&["\n\n"], &["a\n", "\nb"]), ("a".into(), Some(0)));
    }

    #[test]
    fn text_that_might_become_a_stop_string_is_held() {
        let mut matcher = StopMatcher::new(["STOP"]).unwrap();
        assert_eq!(matcher.push("a ST"), "a ");
        assert_eq!(matcher.push("AR"), "STAR");
        assert_eq!(matcher.push("SSTO"), "S");
        assert_eq!(matcher.push("STO"), "STO");
        assert_eq!(matcher.finish(), "STO");
        assert_eq!(matcher.found(), None);
    }

    #[test]
    fn the_first_complete_stop_string_wins() {
        assert_eq!(run(&["abcd", "bc"], &["abcd"]), ("a".into(), Some(1)));
        assert_eq!(run(&["bc", "abc"], &["xabcx"]), ("x".into(), Some(1)));
        assert_eq!(run(&["y", "x"], &["a x y"]), ("a ".into(), Some(1)));
        assert_eq!(run(&["é", "e"], &["caf", "é"]), ("caf".into(), Some(0)));
    }

    #[test]
    fn nothing_follows_a_stop_string() {
        let mut matcher = StopMatcher::new(["x"]).unwrap();
        assert_eq!(matcher.push("ax b"), "a");
        assert_eq!(matcher.push("c"), "");
        assert_eq!(matcher.finish(), "");
    }

    #[test]
    fn no_stop_strings_let_everything_through() {
        assert_eq!(run(&[], &["a", "b"]), ("ab".into(), None));
    }

    #[test]
    fn useless_stop_strings_are_errors() {
        assert!(StopMatcher::new([""]).is_err());
        assert!(StopMatcher::new(["x".repeat(MAX_STOP_BYTES + 1)]).is_err());
        assert!(StopMatcher::new(vec!["x"; MAX_STOP_STRINGS + 1]).is_err());
    }

    #[test]
    fn stop_tokens_are_a_set() {
        let stop: StopTokens = [11, 2, 11].into_iter().collect();
        assert_eq!(stop.ids(), [2, 11]);
        assert!(stop.contains(2) && stop.contains(11) && !stop.contains(3));
    }

    /// The definition, character by character.
    fn reference(stops: &[String], text: &str) -> (String, Option<usize>) {
        for end in (0..=text.len()).filter(|&end| text.is_char_boundary(end)) {
            let matches = stops
                .iter()
                .enumerate()
                .filter(|(_, stop)| text[..end].ends_with(stop.as_str()));
            if let Some((index, stop)) =
                matches.max_by_key(|(index, stop)| (stop.len(), usize::MAX - index))
            {
                return (text[..end - stop.len()].into(), Some(index));
            }
        }
        (text.into(), None)
    }

    proptest! {
        // A small alphabet makes matches and near misses frequent.
        #[test]
        fn any_split_gives_the_same_output(
            stops in prop::collection::vec("[abé]{1,4}", 0..4),
            pieces in prop::collection::vec("[abcé]{0,5}", 0..12),
        ) {
            let text = pieces.concat();
            let expected = reference(&stops, &text);
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            prop_assert_eq!(run(&stops, &pieces), expected.clone());
            prop_assert_eq!(run(&stops, &[&text]), expected.clone());
            prop_assert!(stops.iter().all(|stop| !expected.0.contains(stop)));
        }

        #[test]
        fn what_follows_a_stop_string_is_known(stop in "[ab]{1,3}", pieces in prop::collection::vec("[abcé]{0,5}", 0..8)) {
            let mut matcher = StopMatcher::new([&stop]).unwrap();
            let mut out = (String::new(), None);
            for piece in &pieces {
                let (before, after) = match &mut out.1 {
                    None => matcher.push_until(piece),
                    Some(after) => { *after += piece.as_str(); continue }
                };
                out = (out.0 + &before, after.map(str::to_owned));
            }
            out.0 += &matcher.finish();
            let whole = pieces.concat();
            let expected = match whole.split_once(&stop) {
                Some((before, after)) => (before.to_owned(), Some(after.to_owned())),
                None => (whole, None),
            };
            prop_assert_eq!(out, expected);
        }

        #[test]
        fn no_more_than_a_beginning_is_held(
            stops in prop::collection::vec("[ab]{1,4}", 0..4),
            pieces in prop::collection::vec("[abc]{0,5}", 0..12),
        ) {
            let mut matcher = StopMatcher::new(stops.clone()).unwrap();
            let mut out = String::new();
            let mut text = String::new();
            for piece in &pieces {
                out.push_str(&matcher.push(piece));
                text.push_str(piece);
                if matcher.found().is_none() {
                    let held = &text[out.len()..];
                    prop_assert!(held.is_empty() || stops.iter().any(|s| s.len() > held.len() && s.starts_with(held)));
                }
            }
        }
    }
}
