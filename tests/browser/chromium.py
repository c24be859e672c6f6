"""Chromium without a window, by its remote debugging protocol over a pipe: https://chromedevtools.github.io/devtools-protocol/

A message is JSON and ends with a zero byte.  Chromium reads from file descriptor 3 and writes to 4.
"""

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 60  # seconds for one answer
HEIGHT = 900  # of the window


def program() -> str:
    """Returns the path of Chromium.  Without it the test fails."""
    for name in NAMES:
        if path := shutil.which(name):
            return path
    pytest.fail("Chromium is not installed. On Debian: apt-get install chromium (the package chromium)")


class Browser:
    """A running Chromium.  faults: what pages complained of.  loaded: addresses that they asked for."""

    def __init__(self, to: int, of: int):
        self.to, self.of, self.session, self.number, self.rest = to, of, None, 0, b""
        self.faults: list[str] = []
        self.loaded: list[str] = []
        self.events: list[str] = []

    def ask(self, method: str, **parameters) -> dict:
        """Sends a command and returns its result.  Raises RuntimeError if it failed."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        message |= {} if self.session is None else {"sessionId": self.session}
        os.write(self.to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']['message']}")
                return answer["result"]

    def _next(self) -> dict:
        end = time.monotonic() + PATIENCE
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.of], [], [], end - time.monotonic())
            part = os.read(self.of, 1 << 20) if ready else b""
            if not part:
                raise RuntimeError("Chromium gave no answer")
            self.rest += part
        line, _, self.rest = self.rest.partition(b"\0")
        message = json.loads(line)
        self._note(message.get("method", ""), message.get("params", {}))
        return message

    def _note(self, event: str, said: dict) -> None:
        self.events.append(event)
        if event == "Runtime.exceptionThrown":
            self.faults.append(said["exceptionDetails"].get("exception", {}).get("description", "an exception"))
        elif event == "Runtime.consoleAPICalled" and said["type"] in ("error", "warning", "assert"):
            self.faults.append(f"{said['type']}: {said['args']}")
        elif event == "Log.entryAdded" and said["entry"]["level"] in ("error", "warning"):
            self.faults.append(said["entry"]["text"])
        elif event == "Network.requestWillBeSent" and not said["request"]["url"].startswith("data:"):
            self.loaded.append(said["request"]["url"])

    def open(self, page: Path, *, width: int, dark: bool) -> None:
        """Opens a file at a width, in CSS pixels, on a system with a theme."""
        if self.session is None:
            target = self.ask("Target.createTarget", url="about:blank")["targetId"]
            self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
            for domain in ("Page", "Runtime", "Log", "Network"):
                self.ask(f"{domain}.enable")
        size = {"width": width, "height": HEIGHT, "deviceScaleFactor": 1, "mobile": False}
        self.ask("Emulation.setDeviceMetricsOverride", **size)
        theme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.ask("Emulation.setEmulatedMedia", features=[theme])
        self.faults, self.loaded, self.events = [], [], []
        self.ask("Page.navigate", url=page.as_uri())
        while "Page.loadEventFired" not in self.events:
            self._next()

    def run(self, script: str) -> dict:
        """Returns the object that a script returns in the page: the body of a function.  It may wait."""
        found = self.ask(
            "Runtime.evaluate", expression=f"(async () => {{ {script} }})()", awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in found:
            raise RuntimeError(found["exceptionDetails"]["exception"].get("description"))
        return found["result"]["value"]

    def screenshot(self, path: Path) -> None:
        """Writes a picture of the whole page."""
        content = self.ask("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(content))


@contextlib.contextmanager
def running(folder: Path) -> Iterator[Browser]:
    """Starts Chromium, with its files in a folder, and ends it when the block ends."""
    (theirs_in, to), (of, theirs_out) = os.pipe(), os.pipe()

    def pipes() -> None:
        # Both first get numbers above 4, so that neither is overwritten.
        high = [os.dup2(fd, 60 + i) for i, fd in enumerate((theirs_in, theirs_out))]
        os.dup2(high[0], 3)
        os.dup2(high[1], 4)

    arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--remote-debugging-pipe"]
    with open(folder / "stderr.txt", "wb") as errors:
        process = subprocess.Popen(
            [program(), *arguments, f"--user-data-dir={folder / 'browser'}"],
            preexec_fn=pipes,
            pass_fds=(3, 4),
            stdin=subprocess.DEVNULL,
            stdout=errors,
            stderr=errors,
        )
    os.close(theirs_in)
    os.close(theirs_out)
    browser = Browser(to, of)
    try:
        yield browser
    finally:
        browser.session = None
        with contextlib.suppress(RuntimeError, OSError):
            browser.ask("Browser.close")
        os.close(to)
        os.close(of)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
