"""A headless Chromium that complains: of errors in the console, of what the policy refused, and by axe-core."""

import shutil
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from playwright.async_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Request,
    async_playwright,
    expect,
)

from app.domain.keys import Key
from tests.live import LiveServer
from tests.waiting import PATIENCE_SECONDS

expect.set_options(timeout=1000 * PATIENCE_SECONDS)

PHONE, DESKTOP = (390, 844), (1280, 900)
NARROWEST = (360, 640)


@asynccontextmanager
async def chromium() -> AsyncGenerator[Browser]:
    """The browser of this system; the test is skipped where there is none."""
    path = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("there is no Chromium here")
    async with async_playwright() as play:
        # Without the sandbox, which root may not have. No name but this machine's is looked up.
        arguments = ["--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
        browser = await play.chromium.launch(executable_path=path, args=arguments)
        yield browser
        await browser.close()


class Visit:
    """One window, and all that went wrong in it."""

    def __init__(self, page: Page, server: LiveServer) -> None:
        """Listen from the first page on."""
        self.page = page
        self.base = f"http://127.0.0.1:{server.port}/ui"
        self.complaints = list[str]()
        self.requested = list[str]()
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", self._asked)

    async def go(self, path: str) -> None:
        await self.page.goto(self.base + path)

    async def log_in(self, key: Key) -> None:
        await self.go("/login")
        await self.page.get_by_label("API key").fill(key.text)
        await self.page.get_by_role("button", name="Log in").click()
        await self.page.wait_for_url("**/responses")

    async def check(self) -> None:
        """Nothing sticks out, nobody complains, and axe-core finds nothing serious."""
        await self.check_width()
        assert not await self._faults(), self.page.url

    async def check_width(self) -> None:
        """Nothing sticks out or was complained of, and nothing was asked of anybody else."""
        assert not self.complaints, self.complaints
        assert not [url for url in self.requested if not url.startswith((self.base, "data:"))]
        wide = await self.page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        assert wide <= 0, f"{self.page.url} is {wide} px too wide"

    async def _faults(self) -> list[Any]:
        await self.page.evaluate(AXE_SCRIPT)
        found = await self.page.evaluate("axe.run()")
        return [
            (each["id"], [(node["target"], node["failureSummary"]) for node in each["nodes"]])
            for each in found["violations"]
            if each["impact"] in {"serious", "critical"}
        ]

    def _heard(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.complaints.append(message.text)

    def _asked(self, request: Request) -> None:
        self.requested.append(request.url)


@asynccontextmanager
async def window(
    browser: Browser, server: LiveServer, *, size: tuple[int, int] = DESKTOP, **options: Any
) -> AsyncGenerator[Visit]:
    """A window of its own, with nothing remembered. `options` are those of a browser's context."""
    width, height = size
    context: BrowserContext = await browser.new_context(
        viewport={"width": width, "height": height}, **options
    )
    context.set_default_timeout(1000 * PATIENCE_SECONDS)
    try:
        yield Visit(await context.new_page(), server)
    finally:
        await context.close()
