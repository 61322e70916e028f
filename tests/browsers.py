"""Pages in a real browser, where one is installed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from servers import Address

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
browser_test = pytest.mark.skipif(BROWSER is None, reason="Chromium is not installed")
OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
)  # fmt: skip
DESKTOP, PHONE = (1280, 900), (390, 844)


@contextmanager
def opened(
    browser: Any,
    server: Address,
    path: str,
    size: tuple[int, int] = DESKTOP,
    *,
    refused: int | None = None,
    **options: Any,
) -> Iterator[Any]:
    """Open a page; at its end, nothing was written to the console, and no other place was asked.

    `refused` is the status of calls that are meant to fail, which the browser notes in the console.
    """
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, locale="en-GB", **options)
    context.set_default_timeout(60_000)
    page = context.new_page()
    console: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: console.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: console.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(f"{server.url}{path}")
    page.wait_for_load_state("networkidle")
    yield page
    assert [text for text in console if refused is None or f"status of {refused}" not in text] == []
    assert all(url.startswith((server.url, "blob:", "data:")) for url in asked), asked
    context.close()
