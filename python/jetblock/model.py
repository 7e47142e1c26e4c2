"""Models from Python: load, generate, look inside, prove."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypedDict, overload

from jetblock import _core
from jetblock._errors import ArgumentError
from jetblock.receipts import Receipt, Replays, comparison

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from typing_extensions import Unpack

Message = Mapping[str, Any]
"""A chat message in OpenAI's format: `{"role": "user", "content": "Hello"}`."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function that the model called."""

    id: str | None
    name: str
    arguments: dict[str, Any]


@dataclass(frozen=True, slots=True)
class ToolCallError:
    """A call that cannot be read: why, and the output from the first call on."""

    reason: str
    raw: str


@dataclass(frozen=True, slots=True)
class Completion:
    """One finished sample.

    Attributes:
        content: The answer, up to the first tool call.
        reasoning: What the model thought before it.
        tool_calls: Functions that it called.
        tool_call_error: A call that cannot be read.
        tokens: The tokens drawn or forced, the stop token included.
        log_probs: ln p of each token under the unmodified logits, f32 values.
        forced: Which of the tokens were forced by the thinking budget, by index.
        finish_reason: `stop_token`, `stop_string`, `max_tokens`, `max_tokens_in_reasoning`.
        receipt: What proves it, where one was asked for.
    """

    content: str
    reasoning: str
    tool_calls: tuple[ToolCall, ...]
    tool_call_error: ToolCallError | None
    tokens: tuple[int, ...]
    log_probs: tuple[float, ...]
    forced: tuple[int, ...]
    finish_reason: str
    receipt: Receipt | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Speculation:
    """How well guesses did: steps that decoded, tokens drawn in them, tokens guessed, guesses that were right."""

    decode_steps: int
    tokens: int
    drafted: int
    accepted: int


@dataclass(frozen=True, slots=True)
class Completions(Sequence[Completion]):
    """The samples of one request, in order; the first one's fields are those of the whole."""

    samples: tuple[Completion, ...]
    prompt_tokens: tuple[int, ...]
    speculation: Speculation

    @overload
    def __getitem__(self, index: int) -> Completion: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Completion]: ...
    def __getitem__(self, index: int | slice) -> Completion | Sequence[Completion]:
        return self.samples[index]

    def __len__(self) -> int:
        return len(self.samples)

    def __str__(self) -> str:
        return self.content

    @property
    def content(self) -> str:
        """The first sample's answer."""
        return self.samples[0].content

    @property
    def reasoning(self) -> str:
        """What the first sample thought before its answer."""
        return self.samples[0].reasoning

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The first sample's calls."""
        return self.samples[0].tool_calls

    @property
    def tokens(self) -> tuple[int, ...]:
        """The first sample's tokens."""
        return self.samples[0].tokens

    @property
    def finish_reason(self) -> str:
        """Why the first sample ended."""
        return self.samples[0].finish_reason

    @property
    def receipt(self) -> Receipt | None:
        """The first sample's receipt, where one was asked for."""
        return self.samples[0].receipt


@dataclass(frozen=True, slots=True)
class Delta:
    """Text of one sample that can no longer change; either part may be empty."""

    sample: int
    reasoning: str
    content: str


class Stream(Iterator[Delta]):
    """Text as it is generated. After the last piece, `result` has everything; dropping a stream ends its request."""

    def __init__(self, generation: _core.Generation) -> None:
        self._generation = generation
        self._ready: list[Delta] = []
        self._is_finished = False
        self._result: Completions | None = None

    def __next__(self) -> Delta:
        while not self._ready:
            if self._is_finished:
                raise StopIteration
            texts, self._is_finished = self._generation.step()
            self._ready = [Delta(*text) for text in texts]
        return self._ready.pop(0)

    @property
    def result(self) -> Completions:
        """All samples; computes what is left of them."""
        if self._result is None:
            while not self._is_finished:
                texts, self._is_finished = self._generation.step()
                self._ready += [Delta(*text) for text in texts]
            samples, speculation = self._generation.answers()
            self._result = Completions(
                tuple(_completion(sample) for sample in samples),
                tuple(self._generation.prompt_tokens),
                Speculation(*speculation),
            )
        return self._result


def _completion(sample: dict[str, Any]) -> Completion:
    calls = json.loads(sample["tool_calls"])
    unread = sample["tool_call_error"]
    return Completion(
        content=sample["content"],
        reasoning=sample["reasoning"],
        tool_calls=tuple(
            ToolCall(call.get("id"), call["function"]["name"], call["function"]["arguments"]) for call in calls
        ),
        tool_call_error=ToolCallError(*unread) if unread else None,
        tokens=tuple(sample["tokens"]),
        log_probs=tuple(sample["log_probs"]),
        forced=tuple(sample["forced"]),
        finish_reason=sample["finish_reason"],
        receipt=Receipt(sample["receipt"]) if sample["receipt"] else None,
    )


@dataclass(frozen=True, slots=True)
class Proof:
    """One request computed under many schedules, compared by digest of every logit and all state.

    Attributes:
        runs: Schedules compared with the baseline.
        identical: Those with the baseline's bits.
        axes: For each thing that varied, its runs and how many were identical.
        logits: Digest of the baseline's logits `[T, V]`.
        state: Digest of its state after the last token.
        first_difference: The first run that differed.
        control_runs: Runs of the same schedules with kernels written the usual way.
        control_distinct: Different answers among them.
        seconds: How long it took.
    """

    runs: int
    identical: int
    axes: dict[str, tuple[int, int]]
    logits: str
    state: str
    first_difference: str | None
    control_runs: int
    control_distinct: int
    seconds: float

    def __bool__(self) -> bool:
        """Whether something ran and nothing differed."""
        return 0 < self.runs == self.identical

    def __str__(self) -> str:
        found = f"{self.identical} of {self.runs} identical, logits {self.logits[:16]}, state {self.state[:16]}"
        if self.control_runs:
            found += f"; the usual kernels: {self.control_distinct} different answers in {self.control_runs} runs"
        return found if self else f"NOT IDENTICAL: {found}; {self.first_difference}"


class GenerateOptions(TypedDict, total=False):
    """Options of `Model.generate`.

    What is not given comes from the checkpoint; where it is silent, from NVIDIA's recommendations.

    Attributes:
        max_tokens: Most tokens for each sample.
        temperature: Divides the logits; 0 takes the most likely token.
        top_k: Keep the k most likely tokens; 0 keeps all.
        top_p: Keep the most likely tokens that together reach this probability.
        min_p: Keep tokens at least this likely relative to the most likely one.
        repetition_penalty: Makes tokens of the prompt and the output less likely; 1 is off.
        presence_penalty: Subtracted from the logits of tokens in the output.
        frequency_penalty: Subtracted for each time a token is in the output.
        logit_bias: Added to the logits of single tokens.
        seed: Key of the random generator.
        n: Samples to draw.
        stop: Texts that end the output before them.
        think: Whether the model thinks first, by its template's own switch.
        thinking_budget: Close the think block at the first newline after so many tokens.
        thinking_grace: Close it anywhere so many tokens later; a tenth of the budget where not given.
        thinking_close: What ends reasoning that is cut.
        tools: Tools in OpenAI's format.
        template_arguments: Further variables of the template.
        literal_markers: Pass /think and /no_think on as text where they switch nothing.
        now: Date for templates that print it, such as 2026-11-23; the clock is never read.
        show_special_tokens: Whether control tokens are part of the text.
        speculate: Guess up to so many tokens ahead from what followed the same words before.
        receipt: Write a receipt for each sample, with digests of all logits, or of the states after each layer too.
    """

    max_tokens: int | None
    temperature: float | None
    top_k: int | None
    top_p: float | None
    min_p: float | None
    repetition_penalty: float | None
    presence_penalty: float | None
    frequency_penalty: float | None
    logit_bias: Mapping[int, float] | None
    seed: int
    n: int
    stop: str | Sequence[str]
    think: Literal["on", "off", "medium"] | None
    thinking_budget: int | None
    thinking_grace: int | None
    thinking_close: str | None
    tools: Sequence[Mapping[str, Any]] | None
    template_arguments: Mapping[str, Any] | None
    literal_markers: bool
    now: str | None
    show_special_tokens: bool
    speculate: int
    receipt: Literal["logits", "layers"] | None


class Model:
    """A loaded model. Any number of threads may use it at once.

    Attributes:
        name: Its folder or file.
        operands: Operand kind of its matrix products, part of every request's key.
        kv: Dtype of its key/value caches, likewise.
        vocab_size: Rows of its output.
        num_layers: Layers of the stack.
        weight_bytes: Memory of its packed weights.
        threads: Threads it computes with; changes no bit.
        isa: Instruction-set level it computes at; changes no bit.
    """

    name: str
    operands: str
    kv: str
    vocab_size: int
    num_layers: int
    weight_bytes: int
    threads: int
    isa: str

    def __init__(self, core: _core.Model) -> None:
        self._core = core
        vars(self).update(json.loads(core.facts()))

    def __repr__(self) -> str:
        return (
            f"<jetblock.Model {self.name}: operands {self.operands}, KV {self.kv}, {self.isa}, {self.threads} threads>"
        )

    @overload
    def generate(
        self, prompt: str | Sequence[Message], *, stream: Literal[False] = ..., **options: "Unpack[GenerateOptions]"
    ) -> Completions: ...
    @overload
    def generate(
        self, prompt: str | Sequence[Message], *, stream: Literal[True], **options: "Unpack[GenerateOptions]"
    ) -> Stream: ...
    def generate(
        self, prompt: str | Sequence[Message], *, stream: bool = False, **options: "Unpack[GenerateOptions]"
    ) -> Completions | Stream:
        """Continues a text, or answers messages by the model's chat template.

        The result is a function of the request alone: `n`, `speculate`, threads and instruction set change no bit.

        Args:
            prompt: Raw text, or messages in OpenAI's format.
            stream: Return an iterator of text as it comes.
            options: See `GenerateOptions`.

        Returns:
            All samples, or an iterator of `Delta` that has them as its `result`.

        Raises:
            ArgumentError: An option is outside its domain, or the model's template cannot do what is asked.

        >>> import jetblock
        >>> model = jetblock.load()
        >>> model.generate("In the beginning", max_tokens=4, temperature=0).finish_reason
        'max_tokens'
        """
        result = Stream(self._start(prompt, **options))
        return result if stream else result.result

    def _start(
        self,
        prompt: str | Sequence[Message],
        *,
        max_tokens: int | None = None,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float | None = None,
        presence_penalty: float | None = None,
        frequency_penalty: float | None = None,
        logit_bias: Mapping[int, float] | None = None,
        seed: int = 0,
        n: int = 1,
        stop: str | Sequence[str] = (),
        think: Literal["on", "off", "medium"] | None = None,
        thinking_budget: int | None = None,
        thinking_grace: int | None = None,
        thinking_close: str | None = None,
        tools: Sequence[Mapping[str, Any]] | None = None,
        template_arguments: Mapping[str, Any] | None = None,
        literal_markers: bool = False,
        now: str | None = None,
        show_special_tokens: bool = False,
        speculate: int = 0,
        receipt: Literal["logits", "layers"] | None = None,
    ) -> _core.Generation:
        is_messages = not isinstance(prompt, str)
        _check_chat_options(
            is_messages=is_messages,
            tools=tools,
            template_arguments=template_arguments,
            think=think,
            now=now,
            literal_markers=literal_markers or None,
        )
        if thinking_budget is None and (thinking_grace is not None or thinking_close is not None):
            raise ArgumentError("thinking_grace and thinking_close need a thinking_budget")
        return self._core.start(
            json.dumps(list(prompt)) if is_messages else str(prompt),
            is_messages=is_messages,
            tools=None if tools is None else json.dumps(list(tools)),
            template_arguments=None if template_arguments is None else json.dumps(dict(template_arguments)),
            think=think,
            literal_markers=literal_markers,
            now=now,
            temperature=temperature,
            top_k=_integer("top_k", top_k, 0, 2**32 - 1),
            top_p=top_p,
            min_p=min_p,
            repetition_penalty=repetition_penalty,
            presence_penalty=presence_penalty,
            frequency_penalty=frequency_penalty,
            logit_bias=dict(logit_bias or {}),
            max_tokens=_integer("max_tokens", max_tokens, 1, 2**62),
            seed=_integer("seed", seed, 0, 2**64 - 1),
            n=_integer("n", n, 1, 1024),
            stop=[stop] if isinstance(stop, str) else list(stop),
            show_special_tokens=show_special_tokens,
            thinking_budget=_integer("thinking_budget", thinking_budget, 0, 2**62),
            thinking_grace=_integer("thinking_grace", thinking_grace, 0, 2**62),
            thinking_close=thinking_close,
            speculate=_integer("speculate", speculate, 0, 64),
            receipt=receipt,
        )

    def encode(self, prompt: str | Sequence[Message]) -> list[int]:
        """The token ids of a text, or of messages by the model's chat template.

        >>> import jetblock
        >>> model = jetblock.load()
        >>> model.decode(model.encode("In the beginning"))
        'In the beginning'
        """
        if isinstance(prompt, str):
            return self._core.encode(prompt)
        return self._core.encode(json.dumps(list(prompt)), is_messages=True)

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of token ids."""
        return self._core.decode(list(ids), skip_special_tokens)

    def logits(self, ids: Sequence[int], *, prefill: Sequence[int] | None = None) -> "npt.NDArray[np.float32]":
        """Every logit of these tokens, `[T, V]` f32.

        Args:
            ids: The tokens.
            prefill: Lengths of the pieces in which they are fed, which change no bit; a piece of 1 is a decode step.

        >>> import jetblock
        >>> model = jetblock.load()
        >>> whole, cut = model.logits([1, 2, 3]), model.logits([1, 2, 3], prefill=[2, 1])
        >>> jetblock.checksum(whole) == jetblock.checksum(cut)
        True
        """
        return self._logits(ids, prefill)[0]

    def digests(self, ids: Sequence[int], *, prefill: Sequence[int] | None = None) -> tuple[str, str]:
        """The digests of these tokens' logits `[T, V]` and of the state after them."""
        return self._logits(ids, prefill)[1]

    def _logits(
        self, ids: Sequence[int], prefill: Sequence[int] | None
    ) -> "tuple[npt.NDArray[np.float32], tuple[str, str]]":
        import numpy as np  # noqa: PLC0415 (importing the package stays light)

        ids = [_integer("a token id", id_, 0, self.vocab_size - 1) for id_ in ids]
        pieces = [len(ids)] if prefill is None else list(prefill)
        if not ids or min(pieces) < 1 or sum(pieces) != len(ids):
            raise ArgumentError(f"prefill is {pieces}, expected lengths of at least 1 that sum to {len(ids)} tokens")
        out = np.empty((len(ids), self.vocab_size), np.float32)
        return out, self._core.logits(ids, pieces, out)

    def profile(self) -> dict[str, Any]:
        """What the layer detector finds: layers, parameters, memory, how each part is run."""
        profile: dict[str, Any] = json.loads(self._core.profile()[0])
        return profile

    def profile_text(self) -> str:
        """The profile for people."""
        return self._core.profile()[1]

    def verify(self, runs: int = 100, *, control_runs: int = 0, tokens: int = 48, max_threads: int = 4) -> Proof:
        """Computes one request under many schedules and compares every logit and all state, bit by bit.

        Args:
            runs: Schedules to compare.
            control_runs: Runs of the same schedules with kernels written the usual way; 0 leaves them out.
            tokens: Tokens of the request.
            max_threads: Largest thread count to try.

        >>> import jetblock
        >>> bool(jetblock.load().verify(runs=12, tokens=8))
        True
        """
        proof = json.loads(
            self._core.verify(
                runs=_integer("runs", runs, 1, 2**32),
                control_runs=_integer("control_runs", control_runs, 0, 2**32),
                tokens=_integer("tokens", tokens, 2, 2**20),
                max_threads=_integer("max_threads", max_threads, 1, 1024),
            )
        )
        return Proof(
            axes={axis["name"]: (axis["runs"], axis["identical"]) for axis in proof["axes"]},
            first_difference=proof.get("first_difference"),
            **{
                name: proof[name]
                for name in ("runs", "identical", "logits", "state", "control_runs", "control_distinct", "seconds")
            },
        )

    def verify_receipt(self, receipt: Receipt) -> Replays:
        """Runs a receipt's request again: as one prompt, token by token, in a batch, at every instruction set.

        The model's operands, KV dtype and split have to be the receipt's, else the comparisons name them as causes.

        >>> import jetblock
        >>> receipt = jetblock.load().generate("In the beginning", max_tokens=4, receipt="logits").receipt
        >>> replays = jetblock.load(kv="fp8").verify_receipt(receipt)
        >>> bool(replays), replays.runs["token by token"].causes
        (False, {'contract.kv': ('bf16', 'fp8')})
        """
        runs = json.loads(self._core.verify_receipt(receipt.text))
        return Replays({name: comparison(found) for name, found in runs})


def load(
    path: str | os.PathLike[str] | None = None,
    *,
    operands: Literal["f32", "bf16"] | None = None,
    kv: Literal["f32", "bf16", "fp8", "nvfp4"] | None = None,
    split: Literal[64, 128, 256] = 256,
    hash_ties: bool = False,
    threads: int | None = None,
    isa: str | None = None,
) -> Model:
    """Loads a model folder in Hugging Face layout or a GGUF file.

    Args:
        path: The folder or file; the small bundled model where not given.
        operands: Operand kind of matrix products, by the model's dtypes where not given. Part of the request's key.
        kv: Dtype of the key/value cache, as the operands where not given. Part of the key.
        split: Keys in an attention block. Part of the key.
        hash_ties: Order equal router scores by a hash. Part of the key.
        threads: Threads to compute with, all cores where not given (or `JETBLOCK_THREADS`). Changes no bit.
        isa: Instruction-set level, the best where not given (or `JETBLOCK_ISA`). Changes no bit.

    Raises:
        ModelError: The model cannot be opened.
        ArgumentError: An option is outside its domain.
    """
    return Model(
        _core.Model.load(
            None if path is None else os.fspath(path),
            operands=operands,
            kv=kv,
            split=split,
            hash_ties=hash_ties,
            threads=_integer("threads", threads, 1, 1024),
            isa=isa,
        )
    )


@overload
def _integer(name: str, value: int, least: int, greatest: int) -> int: ...
@overload
def _integer(name: str, value: int | None, least: int, greatest: int) -> int | None: ...
def _integer(name: str, value: int | None, least: int, greatest: int) -> int | None:
    if value is not None and not least <= value <= greatest:
        raise ArgumentError(f"{name} is {value}, expected {least} to {greatest}")
    return value


def _check_chat_options(*, is_messages: bool, **options: object) -> None:
    given = [name for name, value in options.items() if value is not None]
    if given and not is_messages:
        raise ArgumentError(f"{', '.join(given)}: only for messages, and the prompt is raw text")
