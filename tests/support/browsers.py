"""What the browser tests share: a page with what was noticed about it, and where screenshots are kept."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from playwright.sync_api import Page

SCREENSHOTS = Path(
    os.environ.get("OPSKPI_SCREENSHOTS") or Path(__file__).resolve().parents[2] / "build" / "screenshots"
)


@dataclass(slots=True)
class Watched:
    """A page, and what a reader of its console and of the network would have noticed."""

    page: Page
    complaints: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def go(self, url: str) -> None:
        """Open a page and wait until it is kept up to date."""
        self.page.goto(url)
        self.page.wait_for_selector('#live[data-state="live"]')


OpenPage = Callable[..., Watched]
