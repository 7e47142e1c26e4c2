//! Splits streamed output into what the model thought and what it answers.
//!
//! The prompt has opened a think block, so the output reads `reasoning </think> answer`; everything before the first
//! closing marker is reasoning. Without an opened block the whole output is the answer.

use crate::StopMatcher;

/// What opens a think block.
pub const THINK_START: &str = "<think>";

/// What closes it.
pub const THINK_END: &str = "</think>";

/// Whether the prompt ends inside a think block that it opened: `<think>` is its last word.
pub fn prompt_opens_thinking(prompt: &str) -> bool {
    prompt.trim_end().ends_with(THINK_START)
}

/// Pieces of reasoning and answer; either may be empty.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Delta {
    /// Text before the closing marker.
    pub reasoning: String,
    /// Text after it.
    pub content: String,
}

impl Delta {
    /// Whether there is no text at all.
    pub fn is_empty(&self) -> bool {
        self.reasoning.is_empty() && self.content.is_empty()
    }
}

/// Splits text that arrives in pieces. Reasoning, marker and answer put together are the text that came in: nothing
/// is trimmed.
#[derive(Clone, Debug)]
pub struct ReasoningSplitter(Place);

/// Where the next text belongs.
#[derive(Clone, Debug)]
enum Place {
    /// Before a marker that is found by its text.
    Text(StopMatcher),
    /// Before a marker that is a token, `until` bytes before it where it has come; `passed` bytes have.
    Token { passed: usize, until: Option<usize> },
    /// Inside the marker, this many bytes before its end.
    Marker(usize),
    /// In the answer.
    Answer,
}

impl ReasoningSplitter {
    /// A splitter for the output after this prompt. Where the marker is a token of its own, only that token ends the
    /// reasoning ([`end_at`](Self::end_at)), not text that happens to spell it.
    pub fn for_prompt(prompt: &str, marker_is_a_token: bool) -> ReasoningSplitter {
        ReasoningSplitter(match (prompt_opens_thinking(prompt), marker_is_a_token) {
            (false, _) => Place::Answer,
            (true, false) => {
                let end = StopMatcher::new([THINK_END]).expect("the marker is a valid stop string");
                Place::Text(end)
            }
            (true, true) => Place::Token {
                passed: 0,
                until: None,
            },
        })
    }

    /// Whether the next text is still reasoning.
    pub fn is_reasoning(&self) -> bool {
        matches!(self.0, Place::Text(_) | Place::Token { .. })
    }

    /// Says that the marker's token has come: its text begins this many bytes after the beginning of the output.
    pub fn end_at(&mut self, byte: usize) {
        if let Place::Token {
            until: until @ None,
            ..
        } = &mut self.0
        {
            *until = Some(byte);
        }
    }

    /// Takes more text; what may be the beginning of the marker is held back.
    pub fn push(&mut self, text: &str) -> Delta {
        match &mut self.0 {
            Place::Answer => Delta {
                content: text.to_owned(),
                ..Delta::default()
            },
            Place::Text(end) => {
                let (reasoning, content) = end.push_until(text);
                if content.is_some() {
                    self.0 = Place::Answer;
                }
                Delta {
                    reasoning,
                    content: content.unwrap_or_default().to_owned(),
                }
            }
            Place::Token { passed, until } => {
                let left = until.map_or(usize::MAX, |until| until - *passed);
                *passed += text.len();
                if text.len() < left {
                    return Delta {
                        reasoning: text.to_owned(),
                        ..Delta::default()
                    };
                }
                let (reasoning, rest) = text.split_at(left);
                self.0 = Place::Marker(THINK_END.len());
                Delta {
                    reasoning: reasoning.to_owned(),
                    ..self.push(rest)
                }
            }
            Place::Marker(left) => {
                let skipped = text.len().min(*left);
                *left -= skipped;
                if *left == 0 {
                    self.0 = Place::Answer;
                }
                Delta {
                    content: text[skipped..].to_owned(),
                    ..Delta::default()
                }
            }
        }
    }

    /// What was held back. An output that ends before the marker has reasoning only.
    pub fn finish(&mut self) -> Delta {
        let reasoning = match &mut self.0 {
            Place::Text(end) => end.finish(),
            _ => String::new(),
        };
        Delta {
            reasoning,
            ..Delta::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(prompt: &str, pieces: &[&str]) -> (String, String) {
        let mut splitter = ReasoningSplitter::for_prompt(prompt, false);
        let mut deltas: Vec<Delta> = pieces.iter().map(|piece| splitter.push(piece)).collect();
        deltas.push(splitter.finish());
        deltas.into_iter().fold(Default::default(), |(r, c), d| {
            (r + &d.reasoning, c + &d.content)
        })
    }

    const OPEN: &str = "<|im_start|>assistant\n<think>\n";
    const CLOSED: &str = "<|im_start|>assistant\n<think></think>";

    #[test]
    fn text_before_the_marker_is_reasoning() {
        assert_eq!(
            run(OPEN, &["hm\n</think>\n42"]),
            ("hm\n".into(), "\n42".into())
        );
        assert_eq!(
            run(OPEN, &["hm", "</thi", "nk>", "42"]),
            ("hm".into(), "42".into())
        );
    }

    #[test]
    fn only_the_first_marker_counts() {
        assert_eq!(
            run(OPEN, &["a</think>b</think>c"]),
            ("a".into(), "b</think>c".into())
        );
    }

    #[test]
    fn without_a_think_block_all_is_answer() {
        assert_eq!(
            run(CLOSED, &["a</think>b"]),
            (String::new(), "a</think>b".into())
        );
        assert_eq!(run("plain text", &["a"]), (String::new(), "a".into()));
    }

    #[test]
    fn output_cut_while_thinking_has_no_answer() {
        assert_eq!(run(OPEN, &["hm </thi"]), ("hm </thi".into(), String::new()));
    }

    #[test]
    fn the_last_word_of_the_prompt_decides() {
        assert!(prompt_opens_thinking(OPEN));
        assert!(!prompt_opens_thinking(CLOSED));
        assert!(!prompt_opens_thinking("write <think> twice"));
        assert!(!prompt_opens_thinking(""));
    }

    #[test]
    fn where_the_marker_is_a_token_its_spelling_is_text() {
        let mut splitter = ReasoningSplitter::for_prompt(OPEN, true);
        let before = "write </think> to end";
        let mut deltas = vec![splitter.push(before)];
        assert!(splitter.is_reasoning());
        splitter.end_at(before.len());
        // The marker may be held back by whoever looks for stop strings, and come in pieces.
        deltas.extend(["</", "think>4", "2</think>"].map(|piece| splitter.push(piece)));
        splitter.end_at(0);
        deltas.push(splitter.push("!"));
        let (reasoning, content) = deltas
            .into_iter()
            .fold(<(String, String)>::default(), |(r, c), d| {
                (r + &d.reasoning, c + &d.content)
            });
        assert_eq!(
            (reasoning.as_str(), content.as_str()),
            (before, "42</think>!")
        );
    }

    proptest! {
        #[test]
        fn a_token_splits_where_it_stands(before in "[ab</>]{0,6}", after in "[ab</>é]{0,6}", held in 0..4_usize, size in 1..5_usize) {
            let mut splitter = ReasoningSplitter::for_prompt(OPEN, true);
            let text = format!("{before}{THINK_END}{after}");
            // Some of the text before the marker may arrive after its token has.
            let held = before.len() - held.min(before.len());
            let mut parts = vec![splitter.push(&before[..held])];
            splitter.end_at(before.len());
            let rest: Vec<char> = text[held..].chars().collect();
            parts.extend(rest.chunks(size).map(|piece| splitter.push(&String::from_iter(piece))));
            parts.push(splitter.finish());
            let (reasoning, content) = parts.into_iter().fold(<(String, String)>::default(), |(r, c), d| (r + &d.reasoning, c + &d.content));
            prop_assert_eq!((reasoning, content), (before, after));
        }

        #[test]
        fn any_split_gives_the_same_parts(pieces in prop::collection::vec("[<]?[/]?(think)?[>]?[ab]?|</think>", 0..8)) {
            let text = pieces.concat();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let (reasoning, content) = text.split_once(THINK_END).unwrap_or((&text, ""));
            prop_assert_eq!(run(OPEN, &pieces), (reasoning.to_owned(), content.to_owned()));
        }
    }
}
