"""A headless Chromium that opens a page, for tests of pages."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Literal, NamedTuple
from urllib.parse import urlsplit

# What Chromium asks for by itself, whatever page it shows.
ITS_OWN = ("googleapis.com", "google.com", "gvt1.com", "gstatic.com")


class Seen(NamedTuple):
    """What came of opening a page."""

    screenshot: Path
    console: list[str]
    requests: list[str]
    """Addresses asked for beside the page itself."""


def look(
    page: Path, folder: Path, scheme: Literal["dark", "light"], size: tuple[int, int] = (1100, 1500)
) -> Seen:
    """Open `page` with this colour scheme preferred."""
    screenshot, log = folder / f"{scheme}.png", folder / f"{scheme}.net.json"
    done = subprocess.run(
        [
            "chromium",
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--blink-settings=preferredColorScheme={0 if scheme == 'dark' else 1}",
            f"--window-size={size[0]},{size[1]}",
            "--enable-logging=stderr",
            f"--log-net-log={log}",
            f"--user-data-dir={folder / f'profile-{scheme}'}",
            f"--screenshot={screenshot}",
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    events = json.loads(log.read_text())["events"]
    urls = {event["params"]["url"] for event in events if "url" in event.get("params", {})}
    foreign = [
        url
        for url in urls
        if url != page.as_uri()
        and not url.startswith("data:")
        and not (urlsplit(url).hostname or "").endswith(ITS_OWN)
    ]
    return Seen(screenshot, [line for line in done.stderr.splitlines() if ":CONSOLE" in line], foreign)


def pixels(screenshot: Path) -> list[list[tuple[float, ...]]]:
    """Return the rows of a screenshot as (red, green, blue, …) between 0 and 1."""
    from matplotlib.image import imread

    return imread(screenshot).tolist()  # type: ignore[no-any-return]
