//! Ends reasoning that has become too long: closes the think block and lets the model answer.
//!
//! The rules are those of NVIDIA's logits processor for Nemotron (NeMo, `tools/budget`), written as a function of the
//! output. With n tokens of output so far, all of them reasoning:
//!
//! 1. The output has contained `</think>`: the model closed the block itself. Nothing is forced, ever after.
//! 2. n >= budget and the last of the n tokens ends in a newline: closing begins.
//! 3. n >= budget + grace: closing begins.
//! 4. Closing forces the closing ids one after another, then nothing any more. Where the output already ends with the
//!    beginning of the closing ids, the longest such beginning is not repeated.
//!
//! A newline of the prompt does not count as the output's. So at most `budget + grace + closing ids` tokens are
//! reasoning, whatever the model says.

use std::sync::Arc;

use crate::{AddSpecialTokens, ForcedTokens, THINK_END, THINK_START, TextError, Tokenizer};

/// What is forced where a request names no closing text: a blank line and the marker.
const CLOSING: &str = "\n\n";

/// How much a model may think before it has to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThinkingBudget {
    /// Tokens of reasoning after which the block is closed at the next newline.
    pub tokens: usize,
    /// Tokens beyond it after which the block is closed wherever it is.
    pub grace: usize,
    /// What is put at the end of reasoning that is cut, before `</think>`; it may contain `</think>` itself and text
    /// after it. `None` is a blank line.
    pub closing: Option<String>,
}

impl ThinkingBudget {
    /// A budget with the grace that NVIDIA's NIM gives: a tenth, rounded up.
    pub fn new(tokens: usize) -> ThinkingBudget {
        ThinkingBudget {
            tokens,
            grace: tokens.div_ceil(10),
            closing: None,
        }
    }

    /// The rule for the output after this prompt; `None` where the prompt does not end by opening a think block.
    pub fn rule(
        &self,
        prompt: &[u32],
        tokenizer: &Tokenizer,
    ) -> Result<Option<BudgetRule>, TextError> {
        let encode = |text: &str| tokenizer.encode(text, AddSpecialTokens::No);
        let opens = |text: &str| encode(text).map(|ids| prompt.ends_with(&ids));
        if !opens(&format!("{THINK_START}\n"))? && !opens(THINK_START)? {
            return Ok(None);
        }
        let closing = match self.closing.as_deref().unwrap_or(CLOSING) {
            text if text.contains(THINK_END) => text.to_owned(),
            text => format!("{text}{THINK_END}"),
        };
        let rule = BudgetRule {
            budget: self.tokens,
            grace: self.grace,
            end_think_ids: encode(THINK_END)?,
            closing_ids: encode(&closing)?,
            newline_ids: tokenizer.ids_ending_in_newline(),
        };
        if !contains(&rule.closing_ids, &rule.end_think_ids) {
            return Err(TextError::value(
                "the closing text of the thinking budget",
                format!("a text in which {THINK_END} stays a token of its own"),
                format!("{closing:?}"),
            ));
        }
        Ok(Some(rule))
    }
}

/// A budget in token ids, for one prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BudgetRule {
    budget: usize,
    grace: usize,
    end_think_ids: Vec<u32>,
    /// Contains `end_think_ids`.
    closing_ids: Vec<u32>,
    /// Ascending.
    newline_ids: Arc<[u32]>,
}

/// Where the output of a request with a budget is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BudgetPhase {
    /// The model thinks as it likes.
    Thinking,
    /// This token comes next.
    Closing(u32),
    /// The block is closed, by the model or by the budget.
    Over,
}

impl BudgetRule {
    /// The phase after this output.
    pub fn phase(&self, output: &[u32]) -> BudgetPhase {
        let Some(start) = self.closing_start(output) else {
            return match contains(output, &self.end_think_ids) {
                true => BudgetPhase::Over,
                false => BudgetPhase::Thinking,
            };
        };
        let thought = &output[..start];
        if contains(thought, &self.end_think_ids) {
            return BudgetPhase::Over;
        }
        let forced = output.len() - start;
        match self
            .closing_ids
            .get(overlap(thought, &self.closing_ids) + forced)
        {
            Some(&id) => BudgetPhase::Closing(id),
            None => BudgetPhase::Over,
        }
    }

    /// Tokens of reasoning that no output exceeds, those of the closing included.
    pub fn most_tokens(&self) -> usize {
        self.last_start().saturating_add(self.closing_ids.len())
    }

    fn last_start(&self) -> usize {
        self.budget.saturating_add(self.grace)
    }

    /// The length of the output at which closing begins, if the model has not closed the block before.
    fn closing_start(&self, output: &[u32]) -> Option<usize> {
        let last = self.last_start();
        let ends_in_newline =
            |n: usize| n > 0 && self.newline_ids.binary_search(&output[n - 1]).is_ok();
        (self.budget..=last.min(output.len())).find(|&n| n == last || ends_in_newline(n))
    }
}

impl ForcedTokens for BudgetRule {
    fn next(&self, output: &[u32]) -> Option<u32> {
        // Most tokens are drawn before the budget or long after it: for those nothing is searched.
        if output.len() < self.budget || output.len() >= self.most_tokens() {
            return None;
        }
        match self.phase(output) {
            BudgetPhase::Closing(id) => Some(id),
            BudgetPhase::Thinking | BudgetPhase::Over => None,
        }
    }
}

fn contains(ids: &[u32], part: &[u32]) -> bool {
    ids.windows(part.len()).any(|window| window == part)
}

/// The length of the longest end of `ids` that is a beginning of `closing`.
fn overlap(ids: &[u32], closing: &[u32]) -> usize {
    (0..=closing.len().min(ids.len()))
        .rev()
        .find(|&len| ids.ends_with(&closing[..len]))
        .expect("every text ends with nothing")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const END: u32 = 13;
    const NEWLINE: u32 = 1010;
    const BLANK_LINE: u32 = 1338;

    /// The settings of NVIDIA's example, smaller.
    fn rule(budget: usize, grace: usize) -> BudgetRule {
        BudgetRule {
            budget,
            grace,
            end_think_ids: vec![END],
            closing_ids: vec![BLANK_LINE, END],
            newline_ids: [NEWLINE, BLANK_LINE].into(),
        }
    }

    /// The output when the model says `model`: a forced token takes the place of what the model would have said.
    fn run(rule: &dyn ForcedTokens, model: &[u32]) -> Vec<u32> {
        let mut output = Vec::new();
        for &said in model {
            let token = rule.next(&output).unwrap_or(said);
            output.push(token);
        }
        output
    }

    #[test]
    fn the_block_is_closed_at_the_first_newline_after_the_budget() {
        assert_eq!(
            run(&rule(2, 9), &[1, 2, 3, NEWLINE, 5, 6, 7]),
            [1, 2, 3, NEWLINE, BLANK_LINE, END, 7]
        );
        // The newline may be the budget's last token, not an earlier one.
        assert_eq!(
            run(&rule(2, 9), &[1, NEWLINE, 3, 4, 5]),
            [1, NEWLINE, BLANK_LINE, END, 5]
        );
        assert_eq!(
            run(&rule(3, 9), &[1, NEWLINE, 3, 4, 5]),
            [1, NEWLINE, 3, 4, 5]
        );
    }

    #[test]
    fn after_the_grace_it_is_closed_anywhere() {
        assert_eq!(
            run(&rule(2, 1), &[1, 2, 3, 4, 5, 6]),
            [1, 2, 3, BLANK_LINE, END, 6]
        );
    }

    #[test]
    fn a_trailing_blank_line_is_not_repeated() {
        assert_eq!(
            run(&rule(1, 9), &[1, 2, BLANK_LINE, 4, 5]),
            [1, 2, BLANK_LINE, END, 5]
        );
        let longer = BudgetRule {
            closing_ids: vec![7, 8, 7, 9, END],
            ..rule(3, 0)
        };
        assert_eq!(
            run(&longer, &[7, 8, 7, 0, 0, 0]),
            [7, 8, 7, 9, END, 0],
            "the longest overlap counts"
        );
    }

    #[test]
    fn a_block_that_the_model_closes_is_left_alone() {
        let said = [1, END, 3, NEWLINE, BLANK_LINE, 6, 7];
        assert_eq!(run(&rule(2, 1), &said), said);
        // Also where it closes the block in the grace, and in the last moment.
        assert_eq!(run(&rule(1, 3), &[1, 2, END, 4, 5]), [1, 2, END, 4, 5]);
        assert_eq!(run(&rule(2, 1), &[1, 2, END, 4, 5]), [1, 2, END, 4, 5]);
    }

    #[test]
    fn a_budget_of_0_waits_for_a_newline_or_the_grace() {
        assert_eq!(run(&rule(0, 0), &[1, 2, 3]), [BLANK_LINE, END, 3]);
        assert_eq!(
            run(&rule(0, 5), &[1, NEWLINE, 3, 4, 5]),
            [1, NEWLINE, BLANK_LINE, END, 5]
        );
        assert_eq!(
            run(&rule(0, 2), &[1, 2, 3, 4, 5]),
            [1, 2, BLANK_LINE, END, 5]
        );
    }

    #[test]
    fn huge_numbers_are_no_limit() {
        assert_eq!(run(&rule(usize::MAX, usize::MAX), &[1, 2]), [1, 2]);
        assert_eq!(
            run(&rule(1, usize::MAX), &[1, 2, NEWLINE, 4, 5]),
            [1, 2, NEWLINE, BLANK_LINE, END]
        );
    }

    /// The processor with its state, as NVIDIA's tool keeps it.
    #[derive(Debug)]
    struct Stateful {
        rule: BudgetRule,
        off: bool,
        closing: Option<usize>,
    }

    impl Stateful {
        fn next(&mut self, output: &[u32]) -> Option<u32> {
            if self.off {
                return None;
            }
            if self.closing.is_none() {
                let n = output.len();
                if output.ends_with(&self.rule.end_think_ids) {
                    self.off = true;
                    return None;
                }
                let newline = output
                    .last()
                    .is_some_and(|id| self.rule.newline_ids.contains(id));
                if n >= self.rule.budget && newline || n >= self.rule.budget + self.rule.grace {
                    let closing = &self.rule.closing_ids;
                    let tails = (0..=closing.len()).filter(|&k| output.ends_with(&closing[..k]));
                    self.closing = tails.max();
                }
            }
            let at = self.closing?;
            self.closing = Some(at + 1);
            self.off = at + 1 >= self.rule.closing_ids.len();
            self.rule.closing_ids.get(at).copied()
        }
    }

    prop_compose! {
        /// Ids 0 to 3 are text, 4 and 5 end in a newline, 6 (and 7, where markers have two ids) end a block.
        fn any_rule()(
            budget in 0..20_usize,
            grace in 0..8_usize,
            before in prop::collection::vec(0..6_u32, 0..4),
            after in prop::collection::vec(0..6_u32, 0..3),
            end_think_ids in prop_oneof![Just(vec![6]), Just(vec![6, 7])],
        ) -> BudgetRule {
            let closing_ids = [before, end_think_ids.clone(), after].concat();
            BudgetRule { budget, grace, end_think_ids, closing_ids, newline_ids: [4, 5].into() }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn whatever_the_model_says_the_budget_holds(rule in any_rule(), model in prop::collection::vec(0..8_u32, 0..60)) {
            let output = run(&rule, &model);
            let end = output
                .windows(rule.end_think_ids.len())
                .position(|window| window == rule.end_think_ids)
                .map(|at| at + rule.end_think_ids.len());
            prop_assert!(end.unwrap_or(output.len()) <= rule.most_tokens(), "{:?}", output);
            // Long enough an output is over, and what is over stays over.
            let over = (0..=output.len()).position(|n| rule.phase(&output[..n]) == BudgetPhase::Over);
            if output.len() >= rule.most_tokens() {
                prop_assert!(over.is_some(), "{:?}", output);
            }
            for n in over.unwrap_or(usize::MAX)..=output.len() {
                prop_assert_eq!(rule.phase(&output[..n]), BudgetPhase::Over);
                prop_assert_eq!(rule.next(&output[..n]), None);
            }
        }

        #[test]
        fn the_function_is_the_processor_with_its_state(rule in any_rule(), model in prop::collection::vec(0..8_u32, 0..60)) {
            let mut stateful = Stateful { rule: rule.clone(), off: false, closing: None };
            let mut output = Vec::new();
            for said in model {
                let forced = stateful.next(&output);
                prop_assert_eq!(rule.next(&output), forced, "after {:?}", output);
                output.push(forced.unwrap_or(said));
            }
        }
    }
}
