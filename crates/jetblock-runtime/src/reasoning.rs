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
pub struct ReasoningSplitter {
    /// Looks for the marker; `None` once the answer has begun.
    end: Option<StopMatcher>,
}

impl ReasoningSplitter {
    /// A splitter for the output after this prompt.
    pub fn for_prompt(prompt: &str) -> ReasoningSplitter {
        let matcher = || StopMatcher::new([THINK_END]).expect("the marker is a valid stop string");
        ReasoningSplitter {
            end: prompt_opens_thinking(prompt).then(matcher),
        }
    }

    /// Whether the next text is still reasoning.
    pub fn is_reasoning(&self) -> bool {
        self.end.is_some()
    }

    /// Takes more text; what may be the beginning of the marker is held back.
    pub fn push(&mut self, text: &str) -> Delta {
        let Some(end) = &mut self.end else {
            return Delta {
                content: text.to_owned(),
                ..Delta::default()
            };
        };
        let mut delta = Delta::default();
        // One character at a time, so that the text behind the marker is known exactly.
        for (at, c) in text.char_indices() {
            let next = at + c.len_utf8();
            delta.reasoning.push_str(&end.push(&text[at..next]));
            if end.found().is_some() {
                delta.content.push_str(&text[next..]);
                self.end = None;
                break;
            }
        }
        delta
    }

    /// What was held back. An output that ends before the marker has reasoning only.
    pub fn finish(&mut self) -> Delta {
        let reasoning = self
            .end
            .as_mut()
            .map(StopMatcher::finish)
            .unwrap_or_default();
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
        let mut splitter = ReasoningSplitter::for_prompt(prompt);
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

    proptest! {
        #[test]
        fn any_split_gives_the_same_parts(pieces in prop::collection::vec("[<]?[/]?(think)?[>]?[ab]?|</think>", 0..8)) {
            let text = pieces.concat();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let (reasoning, content) = text.split_once(THINK_END).unwrap_or((&text, ""));
            prop_assert_eq!(run(OPEN, &pieces), (reasoning.to_owned(), content.to_owned()));
        }
    }
}
