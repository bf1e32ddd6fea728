"""How fast the profiler's report opens: a capture of a million events, written as HTML and opened in headless Chromium.

    python benches/report.py [--events 1000000] [--browser chromium] [--json]

The capture is taken from a small network that trains until it has so many events. The figure is the page's own: milliseconds
from the navigation to the first tab, and to the drawn timeline, of a browser that runs already; the best and the worst of five.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import backsweep as bs
from backsweep import nn, optim
from backsweep.profiler import Profile, profile


class Browser:
    """Headless Chromium, driven over a pair of pipes."""

    def __init__(self, program: str) -> None:
        there, ours = os.pipe(), os.pipe()
        self._profile = tempfile.mkdtemp()
        command = [program, "--headless", "--no-sandbox", "--disable-gpu", "--remote-debugging-pipe", f"--user-data-dir={self._profile}"]

        def connect() -> None:
            os.dup2(os.dup(there[0]), 3)
            os.dup2(os.dup(ours[1]), 4)

        self._process = subprocess.Popen(command, preexec_fn=connect, close_fds=False, stderr=subprocess.DEVNULL)
        self._write, self._read = os.fdopen(there[1], "wb"), os.fdopen(ours[0], "rb")
        self._number, self._rest, self._session = 0, b"", ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol, and its answer."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        self._write.write(json.dumps(message).encode() + b"\0")
        self._write.flush()
        while True:
            while b"\0" not in self._rest:
                part = os.read(self._read.fileno(), 1 << 20)
                if not part:
                    raise RuntimeError("the browser has gone")
                self._rest += part
            text, self._rest = self._rest.split(b"\0", 1)
            answer = json.loads(text)
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(answer["error"]["message"])
                return dict(answer["result"])

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        return self.call("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def open(self, page: Path, tab: str = "") -> float:
        """Show a report; returns the milliseconds until it was there, by its own clock."""
        self.call("Page.navigate", url="about:blank")
        self.call("Page.navigate", url=f"{page.absolute().as_uri()}#{tab}")
        for _ in range(600):
            time.sleep(0.05)
            if (ready := self.evaluate("document.documentElement.dataset.ready")) is not None:
                return float(ready)
        raise RuntimeError(f"{page} did not open within 30 seconds")

    def picture(self, to: Path, width: int, height: int, *, dark: bool = False) -> None:
        """The page as PNG, in a window of that size."""
        self.resize(width, height, dark=dark)
        time.sleep(0.3)
        data = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=False)["data"]
        to.write_bytes(base64.b64decode(data))

    def resize(self, width: int, height: int, *, dark: bool = False) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)

    def close(self) -> None:
        self._process.terminate()
        self._process.wait()
        shutil.rmtree(self._profile, ignore_errors=True)


def captured(events: int, path: Path) -> None:
    """Train until there are so many events."""
    bs.manual_seed(0)
    model = nn.Sequential(*(nn.Sequential(nn.Linear(16, 16), nn.LayerNorm(16), nn.GELU()) for _ in range(8)), nn.Linear(16, 4))
    optimizer = optim.AdamW(model.parameters())
    x, y = bs.randn(8, 16), bs.zeros(8, dtype=bs.int64)
    with profile(path):
        # Some 40 bytes an event; the file grows at least once a step.
        while path.stat().st_size < 40 * events:
            loss = nn.functional.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--browser", default=shutil.which("chromium") or shutil.which("google-chrome") or "chromium")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        capture, page = Path(folder, "run.capture"), Path(folder, "report.html")
        captured(options.events, capture)
        start = time.perf_counter()
        prof = Profile.read(capture)
        prof.html(page)
        row: dict[str, Any] = {
            "events": len(prof.capture.events),
            "written_seconds": round(time.perf_counter() - start, 2),
            "page_bytes": page.stat().st_size,
        }
        browser = Browser(options.browser)
        try:
            for name, tab in (("overview_ms", "Overview"), ("timeline_ms", "Timeline")):
                found = sorted(browser.open(page, tab) for _ in range(5))
                row[name] = [found[0], found[-1]]
        finally:
            browser.close()
    if options.json:
        print(json.dumps(row))
    else:
        print(
            f"{row['events']:,} events: report of {row['page_bytes'] / 2**20:.1f} MiB written in {row['written_seconds']} s; "
            f"overview there in {row['overview_ms'][0]:.0f} to {row['overview_ms'][1]:.0f} ms, "
            f"timeline drawn in {row['timeline_ms'][0]:.0f} to {row['timeline_ms'][1]:.0f} ms"
        )


if __name__ == "__main__":
    main()
