"""What a setting costs and gains on this machine, measured on the user's own work."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from jetblock._errors import JetBlockError
from jetblock.handles import ModelHandle

GUESSES = (0, 2, 4, 8)
ROUNDS = 3
GAIN = 1.03
"""A gain below this is noise: the setting stays."""


@dataclass(frozen=True, slots=True)
class Trial:
    """Seconds of the same answer with so many tokens guessed ahead; the median of the rounds."""

    speculate: int
    seconds: float
    accepted: int
    drafted: int


def fastest_guesses(
    handle: ModelHandle, prompt: str, max_tokens: int, between: Callable[[], None] = lambda: None
) -> tuple[ModelHandle, str]:
    """The handle with the number of guesses that answers a prompt fastest, and a table of all.

    Rounds take turns, after one that is not counted. Guesses change no token, which is checked in every round.

    Args:
        handle: The model.
        prompt: A message.
        max_tokens: Tokens of each answer.
        between: Called between trials; it may raise to end them.
    """
    messages = [{"role": "user", "content": prompt}]
    first = list(handle.stream(messages, seed=0, max_tokens=max_tokens, speculate=0).result.tokens)
    seconds: dict[int, list[float]] = {guesses: [] for guesses in GUESSES}
    counts = {}
    for _ in range(ROUNDS):
        for guesses in GUESSES:
            between()
            start = time.perf_counter()
            result = handle.stream(messages, seed=0, max_tokens=max_tokens, speculate=guesses).result
            seconds[guesses].append(time.perf_counter() - start)
            counts[guesses] = result.speculation
            if list(result.tokens) != first:
                raise JetBlockError(f"guessing {guesses} tokens changed the answer, which it never may: report this")
    trials = [
        Trial(guesses, statistics.median(seconds[guesses]), counts[guesses].accepted, counts[guesses].drafted)
        for guesses in GUESSES
    ]
    plain = trials[0]
    best = min(trials, key=lambda trial: trial.seconds)
    if plain.seconds / best.seconds < GAIN:
        best = plain
    return replace(handle, speculate=best.speculate), _table(handle, trials, best, len(first))


def _table(handle: ModelHandle, trials: list[Trial], best: Trial, tokens: int) -> str:
    lines = [f"{handle.name}: {tokens} tokens, equal in every trial", "guesses  seconds  speed  right of guessed"]
    lines += [
        f"{trial.speculate:7}  {trial.seconds:7.3f}  {trials[0].seconds / trial.seconds:4.2f}x"
        f"  {trial.accepted} of {trial.drafted}{'  <- chosen' if trial is best else ''}"
        for trial in trials
    ]
    if best is trials[0]:
        lines.append(f"guessing does not help this prompt by {GAIN - 1:.0%} or more: left off")
    return "\n".join(lines)
