"""A headless Chromium, driven through its DevTools protocol over a pipe."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
PATIENCE = 120.0

# Wider than the window, and not inside something that scrolls by itself.
OVERFLOW = """
[...document.querySelectorAll("body *")].filter((e) => !e.closest(".scroll, pre, svg, .plot")
  && e.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
  .map((e) => e.tagName + "." + e.className)
"""


def find_chromium() -> str | None:
    """Return the program, None if there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


@dataclass
class Visit:
    """What a page did while it was looked at.

    Attributes:
        errors: what its console said.
        requests: addresses that it asked for, itself apart.
        scroll_width: its width, in pixels.
        overflowing: elements that reach beyond the window.
        plots: figures that Plotly has drawn.
    """

    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    scroll_width: int = 0
    overflowing: list[str] = field(default_factory=list)
    plots: int = 0


class Chromium:
    """One browser process; every message ends with a zero byte."""

    def __init__(self, program: str, profile: Path) -> None:
        their_in, self._out = os.pipe()
        self._in, their_out = os.pipe()
        script = f'exec "$0" "$@" 3<&{their_in} 4>&{their_out}'
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe"]
        self._process = subprocess.Popen(
            ["bash", "-c", script, program, *flags, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(their_in, their_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(their_in)
        os.close(their_out)
        self._buffer, self._number = b"", 0
        self._events: list[dict[str, Any]] = []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session: str | None = None
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")
        nowhere = {"latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
        self._call("Network.emulateNetworkConditions", offline=True, **nowhere)

    def visit(
        self, page: Path, width: int, scheme: str = "light", picture: Path | None = None
    ) -> Visit:
        """Open a page from its file, and return what it did.

        Args:
            page: an HTML file.
            width: of the window, in pixels.
            scheme: "light" or "dark".
            picture: where to write a picture of the whole page.
        """
        size = {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 600}
        self._call("Emulation.setDeviceMetricsOverride", **size)
        scheme_feature = {"name": "prefers-color-scheme", "value": scheme}
        self._call("Emulation.setEmulatedMedia", features=[scheme_feature])
        self._events.clear()
        self._call("Page.navigate", url=page.resolve().as_uri())
        self._await_event("Page.loadEventFired")
        found = Visit()
        found.scroll_width = self._evaluate("document.documentElement.scrollWidth")
        found.overflowing = self._evaluate(OVERFLOW)
        found.plots = self._evaluate("document.querySelectorAll('.plot.js-plotly-plot').length")
        if picture is not None:
            height = self._evaluate("document.documentElement.scrollHeight")
            clip = {"x": 0, "y": 0, "width": width, "height": height, "scale": 1}
            shot = self._call("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)
            picture.write_bytes(base64.b64decode(shot["data"]))
        for event in self._events:
            _note(found, event, page.resolve().as_uri())
        return found

    def _evaluate(self, expression: str) -> Any:
        answer = self._call("Runtime.evaluate", expression=expression, returnByValue=True)
        return answer["result"].get("value")

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if getattr(self, "_session", None):
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            self._events.append(answer)

    def _await_event(self, method: str) -> None:
        while all(event.get("method") != method for event in self._events):
            self._events.append(self._receive())

    def _receive(self) -> dict[str, Any]:
        deadline = time.monotonic() + PATIENCE
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(0.0, deadline - time.monotonic()))
            content = os.read(self._in, 1 << 20) if ready else b""
            if not content:
                raise RuntimeError("Chromium does not answer")
            self._buffer += content
        message, _, self._buffer = self._buffer.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        return answer

    def close(self) -> None:
        """End the process."""
        os.close(self._out)
        os.close(self._in)
        self._process.terminate()
        self._process.wait(PATIENCE)


def _note(found: Visit, event: dict[str, Any], page: str) -> None:
    method, said = event.get("method"), event.get("params", {})
    if method == "Network.requestWillBeSent":
        if (address := said["request"]["url"]) != page and not address.startswith("data:"):
            found.requests.append(address)
    elif method == "Runtime.exceptionThrown":
        found.errors.append(json.dumps(said["exceptionDetails"]))
    elif method == "Runtime.consoleAPICalled" and said["type"] in ("error", "warning", "assert"):
        found.errors.append(json.dumps(said["args"]))
    elif method == "Log.entryAdded" and said["entry"]["level"] in ("error", "warning"):
        found.errors.append(said["entry"]["text"])


@contextmanager
def chromium(program: str, profile: Path) -> Iterator[Chromium]:
    """Open a browser, and close it."""
    browser = Chromium(program, profile)
    try:
        yield browser
    finally:
        browser.close()
