"""A headless Chromium, driven by its own protocol (Chrome DevTools Protocol) over a websocket."""

import asyncio
import base64
import itertools
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
START = 60


def executable() -> str | None:
    """Chromium's path: `JETBLOCK_CHROMIUM`, else whichever is installed."""
    return os.environ.get("JETBLOCK_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """An open page."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket
        self.numbers = itertools.count(1)
        self.messages: list[str] = []
        """Errors that the page's scripts threw or printed."""

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol."""
        number = next(self.numbers)
        await self.socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            answer = await self.socket.receive_json()
            if answer.get("method") == "Runtime.exceptionThrown":
                details = answer["params"]["exceptionDetails"]
                self.messages.append(details.get("exception", {}).get("description") or details["text"])
            if answer.get("id") == number:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    async def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited if it is a promise."""
        options = {"awaitPromise": True, "returnByValue": True}
        answer = await self.call("Runtime.evaluate", expression=expression, **options)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def wait(self, expression: str, seconds: float = 60) -> Any:
        """Waits until an expression is true, and returns it."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if value := await self.evaluate(expression):
                return value
            await asyncio.sleep(0.2)
        raise TimeoutError(f"not true in {seconds} s: {expression}; the page says {self.messages}")

    async def click(self, selector: str, text: str = "") -> None:
        """Clicks on the middle of the first element that a selector finds and that has a text, once it is at rest."""
        element = f"[...document.querySelectorAll({selector!r})].find(one => one.textContent.includes({text!r}))"
        middle = f"(r => r && [r.x + r.width / 2, r.y + r.height / 2])({element}?.getBoundingClientRect())"
        place = None
        while place != (now := await self.wait(middle)):
            place = now
            await asyncio.sleep(0.2)
        x, y = now
        for kind in ("mousePressed", "mouseReleased"):
            await self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    async def screenshot(self) -> bytes:
        """What the page looks like, as a PNG file."""
        picture = await self.call("Page.captureScreenshot", format="png")
        return base64.b64decode(picture["data"])


@asynccontextmanager
async def open_page(url: str, size: tuple[int, int] = (1600, 1000)) -> AsyncIterator[Page]:
    """A page in a browser of its own, with no history or settings."""
    with _chromium(size) as port:
        async with aiohttp.ClientSession() as session:
            async with session.get(f"http://127.0.0.1:{port}/json/list") as answer:
                [target] = [page for page in await answer.json(content_type=None) if page["type"] == "page"]
            async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                page = Page(socket)
                await page.call("Runtime.enable")
                await page.call("Page.enable")
                await page.call("Page.navigate", url=url)
                yield page


@contextmanager
def _chromium(size: tuple[int, int]) -> Iterator[str]:
    """A running browser; the port at which it takes commands."""
    chromium = executable()
    assert chromium is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
        flags += ["--remote-debugging-port=0", f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}"]
        process = subprocess.Popen([chromium, *flags, "about:blank"], stderr=subprocess.DEVNULL)
        try:
            port_file = Path(profile) / "DevToolsActivePort"
            end = time.monotonic() + START
            while not (port_file.exists() and port_file.read_text().count("\n")):
                assert process.poll() is None, "Chromium ended"
                assert time.monotonic() < end, "Chromium did not start"
                time.sleep(0.1)
            yield port_file.read_text().split()[0]
        finally:
            process.terminate()
            process.wait(timeout=30)
