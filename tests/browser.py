"""A real browser: pages opened in Chromium without a window, with all that they say on their console."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.optional import left_out

if TYPE_CHECKING:
    from playwright.sync_api import Page

_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@dataclass
class Tab:
    """An open page.

    Attributes:
        page: Playwright's page.
        errors: Errors on its console, exceptions of its scripts, and requests that failed, so far.
        requests: Addresses that it asked for, so far, its own included.
    """

    page: "Page"
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    def picture(self, path: Path) -> None:
        """Write what is shown as a PNG file."""
        self.page.screenshot(path=str(path), timeout=120_000)


@contextmanager
def browser_tab(width: int = 1440, height: int = 900) -> Iterator[Tab]:
    """Open a tab of Chromium, or leave the test out where there is none."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        left_out("needs Chromium")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=_ARGUMENTS)
        try:
            tab = Tab(browser.new_page(viewport={"width": width, "height": height}))
            tab.page.on("console", lambda m: tab.errors.append(m.text) if m.type == "error" else None)
            tab.page.on("pageerror", lambda error: tab.errors.append(str(error)))
            tab.page.on("requestfailed", lambda request: tab.errors.append(f"{request.url}: {request.failure}"))
            tab.page.on("request", lambda request: tab.requests.append(request.url))
            yield tab
        finally:
            browser.close()
