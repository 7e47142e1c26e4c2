"""Thinking on, off, or within a budget, for `generate` of transformers.

The rules are those of the `jetblock` command: the switch is the one that the model's chat template has, what would
have no effect is an error, and a budget forces tokens by NUMERICS.md, section 11.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from transformers import LogitsProcessor, LogitsProcessorList

from jetblock._errors import ArgumentError

THINK_START, THINK_END = "<think>", "</think>"
VARIABLE, MEDIUM = "enable_thinking", "medium_effort"
ON, OFF = "/think", "/no_think"

Messages = Sequence[dict[str, Any]]


class CascadeModeController:
    """Says to a chat model whether and how long to think.

        controller = CascadeModeController(tokenizer, "on", thinking_budget=200)
        inputs = controller.inputs([{"role": "user", "content": "Why is the sky blue?"}])
        output = model.generate(**inputs, logits_processor=controller.logits_processor(inputs["input_ids"]))

    Args:
        tokenizer: Of transformers, with a chat template.
        think: `on`, `off` or `medium`; what the template does by itself where not given.
        thinking_budget: Tokens of reasoning after which the block is closed at the next newline.
        thinking_grace: Tokens beyond it after which it is closed wherever it is; a tenth of the budget where not given.
        thinking_close: What is put before `</think>` where the budget closes; a blank line where not given.
    """

    def __init__(
        self,
        tokenizer: Any,
        think: str | None = None,
        *,
        thinking_budget: int | None = None,
        thinking_grace: int | None = None,
        thinking_close: str | None = None,
    ) -> None:
        if think not in (None, "on", "off", "medium"):
            raise ArgumentError(f"think is {think!r}, expected 'on', 'off' or 'medium'")
        if thinking_budget is None and (thinking_grace is not None or thinking_close is not None):
            raise ArgumentError("thinking_grace and thinking_close need a thinking_budget")
        for name, value in (("thinking_budget", thinking_budget), ("thinking_grace", thinking_grace)):
            if value is not None and value < 0:
                raise ArgumentError(f"{name} is {value}, expected at least 0")
        self.tokenizer = tokenizer
        self.think = think
        self._arguments: dict[str, bool] = {}
        self._marker: str | None = None
        if think is not None:
            self._find_switch(think)
        self._budget: tuple[int, int] | None = None
        if thinking_budget is not None:
            grace = -(-thinking_budget // 10) if thinking_grace is None else thinking_grace
            self._budget = thinking_budget, grace
            self._closing = self._closing_ids("\n\n" if thinking_close is None else thinking_close)

    def prompt(self, messages: Messages, **template_arguments: Any) -> str:
        """The text of a conversation up to where the model goes on."""
        messages = self._marked(messages) if self._marker else messages
        text = self._render(messages, **self._arguments, **template_arguments)
        opens = text.rstrip().endswith(THINK_START)
        if (self.think == "off" and opens) or (self.think in ("on", "medium") and text.rstrip().endswith(THINK_END)):
            raise ArgumentError(f"think is {self.think}, but the prompt ends in {text[-30:]!r}")
        return text

    def inputs(self, messages: Messages, **template_arguments: Any) -> Any:
        """The prompt as `generate` takes it, `input_ids` and `attention_mask` `[1, T]`."""
        return self.tokenizer(
            self.prompt(messages, **template_arguments), add_special_tokens=False, return_tensors="pt"
        )

    def logits_processor(self, input_ids: torch.Tensor) -> LogitsProcessorList:
        """What forces the tokens of the budget in a `generate` that starts from `input_ids [B, T]`.

        Rows whose prompt does not open a think block are left alone, and without a budget all are.
        """
        if self._budget is None:
            return LogitsProcessorList()
        return LogitsProcessorList([_Budget(self, input_ids)])

    def forced(self, prompt: Sequence[int], output: Sequence[int]) -> int | None:
        """The token that a budget puts after this output, if any."""
        if self._budget is None or not self._opens_thinking(list(prompt)):
            return None
        budget, grace = self._budget
        last = budget + grace
        starts = range(budget, min(last, len(output)) + 1)
        start = next((n for n in starts if n == last or (n > 0 and self._ends_in_newline(output[n - 1]))), None)
        if start is None:
            return None
        thought, end = list(output[:start]), self._ids(THINK_END)
        if _contains(thought, end):
            return None
        longest = min(len(self._closing), start)
        overlap = next(n for n in range(longest, -1, -1) if thought[start - n :] == self._closing[:n])
        at = overlap + len(output) - start
        return self._closing[at] if at < len(self._closing) else None

    def _find_switch(self, think: str) -> None:
        probe = [{"role": "user", "content": "x"}]

        def differs(name: str) -> bool:
            return self._render(probe, **{name: True}) != self._render(probe, **{name: False})

        def marked(marker: str) -> str:
            return self._render([{"role": "user", "content": f"x {marker}"}])

        if think == "medium" and not differs(MEDIUM):
            raise ArgumentError(f"think is medium, but the chat template has no {MEDIUM}, expected on or off")
        if differs(VARIABLE):
            self._arguments = {VARIABLE: think != "off"} | ({MEDIUM: True} if think == "medium" else {})
        elif marked(ON) != marked(OFF) and ON not in marked(ON) and OFF not in marked(OFF):
            self._marker = OFF if think == "off" else ON
        else:
            raise ArgumentError(
                f"think is {think}, but the chat template has no switch for it: neither the variable {VARIABLE} nor"
                f" {ON} and {OFF} in messages change its prompt"
            )

    def _marked(self, messages: Messages) -> Messages:
        """The marker where NVIDIA's model cards have it: in the system message."""
        first, *rest = messages
        if first.get("role") != "system":
            return [{"role": "system", "content": self._marker}, *messages]
        return [{**first, "content": f"{first['content']} {self._marker}".strip()}, *rest]

    def _render(self, messages: Messages, **arguments: Any) -> str:
        text: str = self.tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=True, **arguments
        )
        return text

    def _closing_ids(self, text: str) -> list[int]:
        closing = self._ids(text if THINK_END in text else text + THINK_END)
        if not _contains(closing, self._ids(THINK_END)):
            expected = f"a text in which {THINK_END} stays a token of its own"
            raise ArgumentError(f"thinking_close is {text!r}, expected {expected}")
        return closing

    def _opens_thinking(self, prompt: list[int]) -> bool:
        starts = (self._ids(f"{THINK_START}\n"), self._ids(THINK_START))
        return any(prompt[-len(start) :] == start for start in starts)

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    @lru_cache(maxsize=4096)  # noqa: B019 (a controller lives as long as its tokenizer)
    def _ends_in_newline(self, token: int) -> bool:
        return bool(self.tokenizer.decode([token]).endswith("\n"))


class _Budget(LogitsProcessor):
    """Leaves the forced token alone possible."""

    def __init__(self, controller: CascadeModeController, prompts: torch.Tensor) -> None:
        self._controller = controller
        self._prompts = prompts

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        length = self._prompts.shape[1]
        # `num_return_sequences` and beams repeat each prompt.
        each = len(input_ids) // len(self._prompts)
        for row, ids in enumerate(input_ids.tolist()):
            token = self._controller.forced(self._prompts[row // each].tolist(), ids[length:])
            if token is not None:
                scores[row] = -math.inf
                scores[row, token] = 0.0
        return scores


def _contains(ids: list[int], part: list[int]) -> bool:
    return any(ids[i : i + len(part)] == part for i in range(len(ids) - len(part) + 1))
