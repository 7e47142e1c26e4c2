"""The runtime from Python: requests and their bits, errors, interruption."""

import _thread
import json
import multiprocessing
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import jetblock
from conftest import ROOT
from tests.second_implementation import model as second_implementation

PROMPT = "And it came to pass in those days,"
CHAT = [{"role": "user", "content": "Who are you?"}]


def test_a_request_is_a_function_of_itself(model: jetblock.Model) -> None:
    alone = model.generate(PROMPT, max_tokens=40, seed=7)[0]
    assert len(alone.tokens) == len(alone.log_probs) == 40
    several = model.generate(PROMPT, max_tokens=40, seed=7, n=3)
    assert several[0] == alone
    assert len({sample.tokens for sample in several}) == 3
    assert model.generate(PROMPT, max_tokens=40, seed=7, speculate=4)[0] == alone
    assert model.generate(PROMPT, max_tokens=40, seed=8)[0].tokens != alone.tokens


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_change_nothing(model: jetblock.Model, threads: int) -> None:
    other = jetblock.load(threads=threads)
    assert other.threads == threads
    assert other.generate(PROMPT, max_tokens=24, seed=7)[0] == model.generate(PROMPT, max_tokens=24, seed=7)[0]


@pytest.mark.parametrize("isa", jetblock.available_isas())
def test_instruction_sets_change_nothing(model: jetblock.Model, isa: str) -> None:
    other = jetblock.load(threads=1, isa=isa)
    assert other.isa == isa
    assert other.digests([1, 789, 290, 737, 27]) == model.digests([1, 789, 290, 737, 27])


def test_operands_and_kv_are_part_of_the_key(model: jetblock.Model) -> None:
    ids = [1, 789, 290, 737, 27]
    others = [jetblock.load(operands="f32"), jetblock.load(kv="fp8")]
    assert [other.operands for other in others] == ["f32", "bf16"]
    assert [other.kv for other in others] == ["f32", "fp8"]
    assert len({model.digests(ids), *(other.digests(ids) for other in others)}) == 3


def test_logits_do_not_depend_on_the_pieces(model: jetblock.Model) -> None:
    ids = [1, 789, 290, 737, 27, 3]
    whole = model.logits(ids)
    assert (whole.shape, whole.dtype) == ((6, model.vocab_size), np.float32)
    for prefill in ([1] * 6, [4, 2], [1, 5]):
        assert model.logits(ids, prefill=prefill).tobytes() == whole.tobytes()
        assert model.digests(ids, prefill=prefill) == model.digests(ids)
    assert model.digests(ids)[0] == jetblock.checksum(whole)
    assert model.logits([*ids[:-1], 4])[-1].tobytes() != whole[-1].tobytes()


@pytest.mark.parametrize("operands", ["bf16", "f32"])
def test_logits_are_those_of_the_second_implementation(operands: str) -> None:
    ids = [1, 789, 290, 737, 27]
    second = second_implementation.Model(ROOT / "assets/demo-model", kind=operands, kv=operands)
    logits, state = second.logits(ids)
    model = jetblock.load(operands=operands)
    assert model.logits(ids).tobytes() == logits.tobytes()
    assert model.digests(ids)[1] == second_implementation.state_digest(state).hex()


def test_streams_are_the_completion(model: jetblock.Model) -> None:
    stream = model.generate(PROMPT, max_tokens=30, seed=3, n=2, stream=True)
    texts = ["", ""]
    pieces = 0
    for delta in stream:
        texts[delta.sample] += delta.content
        pieces += 1
    whole = model.generate(PROMPT, max_tokens=30, seed=3, n=2)
    assert pieces > 10
    assert texts == [sample.content for sample in whole]
    assert stream.result == whole
    assert model.generate(PROMPT, max_tokens=30, seed=3, n=2, stream=True).result == whole


def test_log_probs_are_exact_f32(model: jetblock.Model) -> None:
    sample = model.generate(PROMPT, max_tokens=8, seed=1)[0]
    assert [float(np.float32(value)) for value in sample.log_probs] == list(sample.log_probs)


def test_chat_thinks_or_not(model: jetblock.Model) -> None:
    thinking = model.generate(CHAT, seed=1, think="on")
    assert thinking.reasoning
    assert thinking.content
    answering = model.generate(CHAT, seed=1, think="off")
    assert answering.reasoning == ""
    assert answering.content
    cut = model.generate(CHAT, seed=1, thinking_budget=5, thinking_grace=0)[0]
    assert cut.forced
    with pytest.raises(jetblock.ArgumentError, match="medium"):
        model.generate(CHAT, think="medium")


def test_tools_become_calls(model: jetblock.Model) -> None:
    parameters = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}}
    tools = [{"type": "function", "function": {"name": "add", "description": "adds", "parameters": parameters}}]
    words = (
        "</think><tool_call><function=add><parameter=a>3</parameter><parameter=b>4</parameter></function></tool_call>"
    )
    answer = model.generate(CHAT, tools=tools, thinking_budget=0, thinking_close=words + "<|im_end|>")
    assert [(call.name, call.arguments) for call in answer.tool_calls] == [("add", {"a": 3, "b": 4})]


def test_stops_and_ends(model: jetblock.Model) -> None:
    whole = model.generate(PROMPT, max_tokens=60, seed=7)
    word = whole.content.split()[5]
    cut = model.generate(PROMPT, max_tokens=60, seed=7, stop=word)
    assert cut.finish_reason == "stop_string"
    assert whole.content.startswith(cut.content)
    assert word not in cut.content


def test_penalties_and_filters_reach_the_draw(model: jetblock.Model) -> None:
    plain = model.generate(PROMPT, max_tokens=30, seed=7).tokens
    for options in (
        {"temperature": 0.3},
        {"top_k": 2},
        {"top_p": 0.2},
        {"min_p": 0.5},
        {"repetition_penalty": 3.0},
        {"presence_penalty": 5.0},
        {"frequency_penalty": 5.0},
        {"logit_bias": {plain[0]: -50.0}},
    ):
        assert model.generate(PROMPT, max_tokens=30, seed=7, **options).tokens != plain, options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature is -1"),
        ({"top_p": 0.0}, "top_p is 0"),
        ({"max_tokens": 0}, "max_tokens is 0, expected 1"),
        ({"seed": -1}, "seed is -1"),
        ({"n": 0}, "n is 0"),
        ({"speculate": 65}, "speculate is 65"),
        ({"think": "on"}, "think: only for messages"),
        ({"thinking_budget": 3}, "does not end with an opened think block"),
        ({"thinking_grace": 3}, "need a thinking_budget"),
        ({"stop": [""]}, "stop"),
    ],
)
def test_wrong_options_are_value_errors(model: jetblock.Model, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        model.generate(PROMPT, **options)
    assert isinstance(caught.value, jetblock.JetBlockError)


def test_wrong_messages_are_value_errors(model: jetblock.Model) -> None:
    with pytest.raises(ValueError, match='think is "loudly"'):
        model.generate(CHAT, think="loudly")
    with pytest.raises(ValueError, match="/no_think"):
        model.generate([{"role": "user", "content": "Hi /no_think"}])
    with pytest.raises(TypeError):
        model.generate(PROMPT, temperature="warm")
    with pytest.raises(ValueError, match="a token id is 99999999"):
        model.logits([99999999])
    with pytest.raises(ValueError, match="expected lengths of at least 1 that sum to 3 tokens"):
        model.logits([1, 2, 3], prefill=[2])


def test_models_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(jetblock.ModelError, match="not a folder or a GGUF file"):
        jetblock.load(tmp_path / "missing")
    with pytest.raises(jetblock.ModelError, match=r"config\.json"):
        jetblock.load(tmp_path)
    for options, message in (
        ({"operands": "f16"}, "operands"),
        ({"kv": "int4"}, "kv"),
        ({"split": 100}, "split"),
        ({"isa": "mmx"}, "mmx"),
        ({"threads": 0}, "threads"),
    ):
        with pytest.raises(jetblock.ArgumentError, match=message):
            jetblock.load(**options)


def test_profile_and_text(model: jetblock.Model) -> None:
    profile = model.profile()
    assert profile["model_type"] == "nemotron_h"
    assert profile["layers"] == model.num_layers == len(profile["pattern"])
    assert "12 layers" in model.profile_text()
    assert model.decode(model.encode(PROMPT)) == PROMPT
    assert model.encode(CHAT) == list(model.generate(CHAT, max_tokens=1).prompt_tokens)


def test_verify_proves(model: jetblock.Model) -> None:
    proof = model.verify(runs=13, tokens=6, control_runs=6)
    assert proof
    assert proof.axes["fresh_process"][0] > 0
    assert proof.control_distinct > 1
    assert "13 of 13 identical" in str(proof)
    with pytest.raises(ValueError, match="runs is 0"):
        model.verify(runs=0)


def test_receipts_are_run_again_and_compared(model: jetblock.Model, tmp_path: Path) -> None:
    answers = model.generate(PROMPT, max_tokens=12, seed=7, n=2, receipt="layers")
    assert [sample.receipt is None for sample in answers] == [False, False]
    receipt, other = (sample.receipt for sample in answers)
    replays = model.verify_receipt(receipt)
    assert replays
    assert len(replays.runs) >= 3
    assert all(comparison.steps == 12 for comparison in replays.runs.values())
    assert model.verify_receipt(other)
    # The samples part, and the receipts say why.
    between = receipt.compare(other)
    assert not between
    assert between.causes == {"request.sample_index": ("0", "1")}
    # Nothing changes on the way through a file, and a changed digest is found.
    file = tmp_path / "receipt.json"
    receipt.save(file)
    assert jetblock.Receipt.open(file) == receipt
    assert [path.name for path in tmp_path.iterdir()] == ["receipt.json"]
    facts = receipt.facts
    facts["steps"][5]["layers"][3] = "0" * 16
    changed = model.verify_receipt(jetblock.Receipt(json.dumps(facts)))
    assert not changed
    for comparison in changed.runs.values():
        assert comparison.first_difference is not None
        assert comparison.first_difference.startswith("step 5 (position 14): the hidden state after layer 3")
        assert comparison.causes == {}
    assert model.generate(PROMPT, max_tokens=2).receipt is None


def test_what_is_no_receipt_is_refused(model: jetblock.Model, tmp_path: Path) -> None:
    for text in ["", "{}", '{"receipt": 2}', "\x00" * 9]:
        with pytest.raises(jetblock.ArgumentError, match="receipt"):
            jetblock.Receipt(text)
    file = tmp_path / "receipt.json"
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(jetblock.ArgumentError, match=r"receipt\.json"):
        jetblock.Receipt.open(file)
    with pytest.raises(jetblock.ArgumentError, match='receipt is "all", expected "logits" or "layers"'):
        model.generate(PROMPT, receipt="all")


def test_several_threads_share_a_model(model: jetblock.Model) -> None:
    alone = [model.generate(PROMPT, max_tokens=16, seed=seed)[0] for seed in range(4)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda seed: model.generate(PROMPT, max_tokens=16, seed=seed)[0], range(4)))
    assert together == alone


def test_other_threads_run_while_rust_computes(model: jetblock.Model) -> None:
    done = threading.Event()

    def generate() -> None:
        model.generate(PROMPT, max_tokens=200, seed=1)
        done.set()

    worker = threading.Thread(target=generate)
    worker.start()
    beats = 0
    while not done.is_set():
        time.sleep(0.001)
        beats += 1
    worker.join()
    assert beats >= 10


@pytest.fixture
def _sigint_is_handled() -> Iterator[None]:
    """A process that was started in the background may ignore SIGINT; then Python sets no handler."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_sigint_is_handled")
def test_ctrl_c_interrupts(model: jetblock.Model) -> None:
    # Until it is interrupted: without its stop tokens.
    endless: jetblock.GenerateOptions = {"max_tokens": 1_000_000, "seed": 1, "logit_bias": {2: -1e9, 11: -1e9}}
    for work in (
        lambda: model.generate(PROMPT, **endless),
        lambda: list(model.generate(PROMPT, stream=True, **endless)),
        lambda: model.verify(runs=1_000_000),
    ):
        timer = threading.Timer(0.5, _thread.interrupt_main)
        timer.start()
        start = time.monotonic()
        with pytest.raises(KeyboardInterrupt):
            work()
        assert time.monotonic() - start < 10
        timer.join()
    assert model.generate(PROMPT, max_tokens=4, seed=1).tokens == model.generate(PROMPT, max_tokens=4, seed=1).tokens


def _digests_in_child(queue: "multiprocessing.Queue[tuple[str, str]]", model: jetblock.Model) -> None:
    queue.put(model.digests([1, 789, 290]))


@pytest.mark.skipif(not hasattr(multiprocessing, "get_context"), reason="no fork")
def test_a_forked_child_has_its_own_threads() -> None:
    model = jetblock.load(threads=2)
    expected = model.digests([1, 789, 290])
    context = multiprocessing.get_context("fork")
    queue: multiprocessing.Queue[tuple[str, str]] = context.Queue()
    child = context.Process(target=_digests_in_child, args=(queue, model))
    child.start()
    assert queue.get(timeout=60) == expected
    child.join(timeout=60)
    assert child.exitcode == 0


def test_results_print_as_text(model: jetblock.Model) -> None:
    completions = model.generate(PROMPT, max_tokens=4, seed=7)
    assert str(completions) == completions.content
    assert json.dumps(completions.tokens)
    assert "bundled demo model" in repr(model)
