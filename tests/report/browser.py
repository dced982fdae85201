"""A real Chromium that tells what a page did wrong: policy violations, errors, requests, dialogs."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WATCH = """
window.violations = [];
document.addEventListener('securitypolicyviolation', (event) => window.violations.push(event.violatedDirective + ' ' + event.blockedURI));
"""
DRAWN = "html[data-drawn]"


class Opened:
    """A page and what was noticed."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.errors: list[str] = []
        self.requests: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(f"error: {error}"))
        page.on("console", lambda message: self.errors.append(message.text) if message.type in ("error", "warning") else None)
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("dialog", lambda dialog: (self.errors.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.add_init_script(WATCH)

    def open(self, address: str) -> Any:
        self.page.goto(address)
        self.page.wait_for_selector(DRAWN, state="attached", timeout=60_000)
        return self.page

    def complaints(self, own: str) -> list[str]:
        """Everything that a page of ours must not do; `own` begins the addresses that it may ask for."""
        violations = [f"violation: {text}" for text in self.page.evaluate("window.violations")]
        outside = [f"request: {url}" for url in self.requests if not url.startswith((own, "data:"))]
        pwned = ["a script from the data ran"] if self.page.evaluate("window.pwned") else []
        return [*self.errors, *violations, *outside, *pwned]


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser process for a module's tests."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


def have_chromium() -> bool:
    return Path(CHROMIUM).exists()
