"""The `jetblock` command of the package: the same as the Rust binary."""

import json
import os
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import jetblock

SCRIPT = str(Path(sysconfig.get_path("scripts"), "jetblock"))
MODULE = [sys.executable, "-m", "jetblock"]


def run(command: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*command, *arguments], capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


def test_script_and_module_are_one_command() -> None:
    for arguments in (("--version",), ("--help",), ("profile",)):
        script, module = run([SCRIPT], *arguments), run(MODULE, *arguments)
        assert (script.returncode, script.stdout) == (0, module.stdout), script.stderr
    assert run(MODULE, "--version").stdout == f"jetblock {jetblock.__version__}\n"


def test_exit_codes() -> None:
    wrong = run(MODULE, "generate", "--n", "0")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "--n" in wrong.stderr
    missing = run(MODULE, "profile", "no-such-folder")
    assert missing.returncode == 2
    assert missing.stderr.startswith("error: no-such-folder is not a folder")


def test_command_and_function_give_the_same_tokens(model: jetblock.Model) -> None:
    options = ("--prompt", "In the beginning", "--max-tokens", "24", "--seed", "5", "--n", "2")
    told = json.loads(run(MODULE, "generate", "--json", *options).stdout)
    samples = model.generate("In the beginning", max_tokens=24, seed=5, n=2)
    assert [sample["tokens"] for sample in told["samples"]] == [list(sample.tokens) for sample in samples]
    assert told["prompt_tokens"] == list(samples.prompt_tokens)


def test_verify_starts_fresh_processes_of_this_interpreter() -> None:
    told = json.loads(run(MODULE, "verify", "--runs", "13", "--control-runs", "0", "--tokens", "6", "--json").stdout)
    axes = {axis["name"]: axis for axis in told["axes"]}
    assert axes["fresh_process"]["runs"] > 0
    assert told["identical"] == told["runs"] == 13


def test_ctrl_c_ends_the_command() -> None:
    command = [*MODULE, "generate", "--prompt", "In the beginning", "--max-tokens", "1000000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=os.environ) as process:
        assert process.stdout is not None
        assert process.stdout.read(1)  # it is generating
        process.send_signal(signal.SIGINT)
        start = time.monotonic()
        assert process.wait(timeout=60) == -signal.SIGINT
        assert time.monotonic() - start < 10
