"""The page in a real browser: what people do there, at phone and desktop width, in light and dark."""

import os
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx2
import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

from app.domain.tenancy import Scope
from tests.api.asking import CREATE, create
from tests.api.conversing import begin
from tests.keys import new_key
from tests.ui.browsing import DESKTOP, NARROWEST, PHONE, Visit, chromium, window
from tests.ui.conftest import Site
from tests.waiting import PATIENCE_SECONDS
from tests.workers.processes import LiveWorker

pytestmark = pytest.mark.asyncio(loop_scope="module")

SCREENSHOTS = "TEST_SCREENSHOTS"
"""A folder to put pictures of every page into, for people to look at."""

TOOLS = [{"type": "function", "name": "get_weather", "parameters": {"type": "object"}}]
PICTURE = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
RICH: list[dict[str, Any]] = [
    {"role": "developer", "content": "Be brief."},
    {"role": "user", "content": [
        {"type": "input_text", "text": "# Title\n\n|a|b|\n|-|-:|\n|1|2|\n\n```\ncode <b>\n```\n\n![x](https://x.example/x.png)"},
        {"type": "input_image", "image_url": PICTURE},
        {"type": "input_image", "image_url": "https://x.example/remote.png"},
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:,x"},
    ]},
    {"type": "function_call", "call_id": "c1", "name": "get_weather", "arguments": '{"city": "Oslo"}'},
    {"type": "function_call_output", "call_id": "c1", "output": "snow"},
    {"role": "user", "content": "And " + "averylongwordwithoutanyspace" * 12},
]  # fmt: skip


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncGenerator[Browser]:
    async with chromium() as started:
        yield started


@pytest_asyncio.fixture(loop_scope="module")
async def visit(browser: Browser, site: Site) -> AsyncGenerator[Visit]:
    """Somebody who has logged in with a key that writes."""
    async with window(browser, site.server) as opened:
        await opened.log_in(site.writer)
        yield opened
        assert not opened.complaints, opened.complaints


@pytest.fixture(scope="module")
def paths(api: httpx2.Client) -> dict[str, str]:
    """A page of every kind, by a name for it."""
    called = create(api, '::reason Look it up.\n::call get_weather {"city": "Oslo"}\nWeather?', tools=TOOLS)
    [call] = [item["call_id"] for item in called["output"] if item["type"] == "function_call"]
    given = [{"type": "function_call_output", "call_id": call, "output": '{"celsius": -3}'}]
    answered = create(api, given, previous_response_id=called["id"], tools=TOOLS)
    rich = create(api, RICH, metadata={"project": "atlas"}, instructions="Be kind.")
    api.post(CREATE, json={"model": "offline", "input": "::words 3 0\n::fail server_error"})
    cut = create(api, "::words 100 0", max_output_tokens=16)
    queued = create(api, "hi", background=True)
    api.post(f"{CREATE}/{queued['id']}/cancel")
    name = begin(api, "My name is Ada.", metadata={"topic": "names"})
    create(api, "Who am I?", conversation=name)
    return {
        "responses": "/responses",
        "filtered": "/responses?model=offline&metadata%5Bproject%5D=atlas",
        "nothing": "/responses?model=none",
        "call": f"/responses/{called['id']}",
        "answered": f"/responses/{answered['id']}",
        "rich": f"/responses/{rich['id']}",
        "incomplete": f"/responses/{cut['id']}",
        "cancelled": f"/responses/{queued['id']}",
        "json": f"/responses/{rich['id']}/raw",
        "item": f"/responses/{rich['id']}/items/1",
        "delete": f"/responses/{rich['id']}/delete",
        "conversations": "/conversations",
        "conversation": f"/conversations/{name}",
    }


@pytest.mark.parametrize(("size", "scheme"), [(PHONE, "light"), (DESKTOP, "dark")], ids=["phone", "desktop"])
async def test_every_page_is_sound(
    browser: Browser, site: Site, paths: dict[str, str], size: tuple[int, int], scheme: str
) -> None:
    async with window(browser, site.server, size=size, color_scheme=scheme) as visit:
        await visit.go("/login")
        await visit.check()
        await picture(visit, "login", size)
        await visit.log_in(site.writer)
        for name, path in paths.items():
            await visit.go(path)
            await picture(visit, name, size)
            await visit.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
            for details in await visit.page.locator("details").all():
                await details.evaluate("each => each.open = true")
            await visit.check()


async def picture(visit: Visit, name: str, size: tuple[int, int]) -> None:
    if folder := os.environ.get(SCREENSHOTS):  # noqa: TID251 - the test run's own knob
        kind = "phone" if size == PHONE else "desktop"
        for scheme in ("light", "dark"):
            await visit.page.emulate_media(color_scheme=scheme)
            await visit.page.screenshot(path=Path(folder) / f"{name}-{kind}-{scheme}.png", full_page=True)


async def test_the_narrowest_phone_scrolls_in_one_direction_alone(
    browser: Browser, site: Site, paths: dict[str, str]
) -> None:
    async with window(browser, site.server, size=NARROWEST) as visit:
        await visit.log_in(site.writer)
        for path in paths.values():
            await visit.go(path)
            for details in await visit.page.locator("details").all():
                await details.evaluate("each => each.open = true")
            await visit.check_width()


async def test_an_empty_list_says_how_to_begin_and_begins(browser: Browser, site: Site) -> None:
    key = await new_key(site.database_url, "beginners", Scope.WRITE)
    context: dict[str, Any] = {"permissions": ["clipboard-read", "clipboard-write"]}
    async with window(browser, site.server, **context) as visit:
        await visit.log_in(key)
        await expect(visit.page.get_by_role("heading", name="No responses yet")).to_be_visible()
        await visit.check()
        await visit.page.get_by_role("button", name="Copy").first.click()
        await expect(visit.page.get_by_role("button", name="Copied")).to_be_visible()
        copied = await visit.page.evaluate("navigator.clipboard.readText()")
        assert copied.startswith(f"curl http://127.0.0.1:{site.server.port}/v1/responses")
        await visit.go("/conversations")
        await expect(visit.page.get_by_role("heading", name="No conversations yet")).to_be_visible()
        await visit.check()
        await visit.go("/responses")
        headers = {"authorization": f"Bearer {key.text}"}
        await ask(site, headers, "the first of all")
        await expect(visit.page.get_by_role("link", name="the first of all")).to_be_visible()
        await visit.check()


async def ask(site: Site, headers: dict[str, str], given: str, **params: Any) -> dict[str, Any]:
    async with httpx2.AsyncClient(timeout=PATIENCE_SECONDS) as client:
        body = {"model": "offline", "input": given, **params}
        answer = await client.post(f"{site.server.base_url}/responses", json=body, headers=headers)
    return answer.json()


async def test_the_list_follows_and_keeps_the_focus(visit: Visit, site: Site, api: httpx2.Client) -> None:
    made = create(api, "an older one")
    await visit.go("/responses")
    link = visit.page.get_by_role("link", name="an older one").first
    await link.focus()
    create(api, "a newer one")
    await expect(visit.page.get_by_role("link", name="a newer one")).to_be_visible()
    assert await visit.page.evaluate("document.activeElement.id") == f"r-{made['id']}"


async def test_filtering(visit: Visit, api: httpx2.Client) -> None:
    create(api, "find the octant", metadata={"project": "atlas"})
    create(api, "find the compass")
    await visit.go("/responses")
    await visit.page.get_by_label("Words").fill("octant")
    await visit.page.get_by_label("Status").select_option("completed")
    await visit.page.get_by_role("button", name="Filter").click()
    await expect(visit.page.get_by_role("link", name="find the octant")).to_be_visible()
    await expect(visit.page.get_by_role("link", name="find the compass")).to_have_count(0)
    assert visit.page.url.endswith("?q=octant&status=completed")
    await visit.check()
    await visit.page.get_by_role("link", name="Words octant").click()
    await expect(visit.page.get_by_role("link", name="find the compass")).to_be_visible()
    await visit.page.go_back()
    await expect(visit.page.get_by_label("Words")).to_be_enabled()


async def test_a_response_is_opened_from_the_list(visit: Visit, api: httpx2.Client) -> None:
    create(api, "open me **now**")
    await visit.go("/responses")
    await visit.page.get_by_role("link", name="open me").click()
    await expect(visit.page.locator(".entry.user strong")).to_have_text("now")
    await expect(visit.page.locator(".chip")).to_have_text("completed")
    await visit.page.get_by_role("link", name="Raw JSON").click()
    await expect(visit.page.locator("pre.raw")).to_contain_text('"object": "response"')


class TestLive:
    async def begun(self, site: Site, given: str) -> str:
        """The id of a background stream whose client has gone."""
        headers = {"authorization": f"Bearer {site.writer.text}"}
        body = {"model": "offline", "input": given, "background": True, "stream": True}
        url = f"{site.server.base_url}/responses"
        async with (
            httpx2.AsyncClient() as client,
            client.stream("POST", url, json=body, headers=headers) as answer,
        ):
            async for line in answer.aiter_lines():
                if '"id":"resp_' in line:
                    return line.partition('"id":"')[2].partition('"')[0]
        raise AssertionError("nothing was said")

    async def test_it_is_followed_to_its_end(self, visit: Visit, site: Site, worker: LiveWorker) -> None:
        name = await self.begun(site, "::reason A thought.\n::words 40 50\n<b>Go</b>")
        await visit.go(f"/responses/{name}")
        live = visit.page.locator("#live")
        await expect(live).to_contain_text("one two three")
        await expect(live.locator("h3")).to_have_text(["Reasoning", "Assistant"])
        await expect(visit.page.locator("[data-chip]")).to_have_text("in progress")
        assert not (await live.inner_text()).endswith("ten")
        await visit.check()
        await expect(visit.page.locator("[data-chip]")).to_have_text("completed")
        await expect(live).to_have_count(0)
        words = "one two three four five six seven eight nine ten"
        await expect(visit.page.locator(".entry.assistant")).to_contain_text(" ".join([words] * 4))
        await visit.check()

    async def test_whoever_was_cut_off_goes_on(
        self, browser: Browser, site: Site, worker: LiveWorker
    ) -> None:
        async with window(browser, site.server) as visit:
            await visit.log_in(site.writer)
            name = await self.begun(site, "::words 60 50\nGo")
            await visit.go(f"/responses/{name}")
            await expect(visit.page.locator("#live")).to_contain_text("one two three")
            await visit.page.context.set_offline(True)
            await visit.page.context.set_offline(False)
            await expect(visit.page.locator("[data-chip]")).to_have_text("completed")
            words = "one two three four five six seven eight nine ten"
            await expect(visit.page.locator(".entry.assistant")).to_contain_text(" ".join([words] * 6))

    async def test_it_is_cancelled(self, visit: Visit, site: Site, worker: LiveWorker) -> None:
        name = await self.begun(site, "::words 1000 50\nGo")
        await visit.go(f"/responses/{name}")
        await expect(visit.page.locator("#live")).to_contain_text("one two")
        await visit.page.get_by_role("link", name="Cancel").click()
        await expect(visit.page.get_by_role("heading", name="Cancel this response?")).to_be_visible()
        await visit.check()
        await visit.page.get_by_role("button", name="Cancel the response").click()
        await expect(visit.page.locator("[data-chip]")).to_have_text("cancelled")
        await visit.check()

    async def test_one_that_is_cancelled_elsewhere_says_so_here(
        self, visit: Visit, site: Site, worker: LiveWorker, api: httpx2.Client
    ) -> None:
        name = await self.begun(site, "::words 1000 50\nGo")
        await visit.go(f"/responses/{name}")
        await expect(visit.page.locator("#live")).to_contain_text("one two")
        api.post(f"{CREATE}/{name}/cancel")
        await expect(visit.page.locator("[data-chip]")).to_have_text("cancelled")
        await expect(visit.page.get_by_text("A cancelled response has no output.")).to_be_visible()

    async def test_one_without_a_stream_is_looked_at_until_it_has_ended(
        self, visit: Visit, worker: LiveWorker, api: httpx2.Client
    ) -> None:
        name = create(api, "::words 5 100\nGo", background=True)["id"]
        await visit.go(f"/responses/{name}")
        await expect(visit.page.locator("[data-chip]")).to_have_text("completed")
        await expect(visit.page.locator(".entry.assistant")).to_contain_text("one two three four five")


async def test_deleting_is_asked_about(visit: Visit, api: httpx2.Client) -> None:
    name = create(api, "delete me please")["id"]
    await visit.go(f"/responses/{name}")
    await visit.page.get_by_role("link", name="Delete").click()
    await visit.page.get_by_role("link", name="Keep it").click()
    await expect(visit.page.locator("[data-chip]")).to_have_text("completed")
    await visit.page.get_by_role("link", name="Delete").click()
    await visit.page.get_by_role("button", name="Delete the response").click()
    await expect(visit.page.get_by_role("status")).to_have_text("The response was deleted.")
    await expect(visit.page.get_by_role("link", name="delete me please")).to_have_count(0)
    await visit.check()
    assert api.get(f"{CREATE}/{name}").status_code == 404


async def test_all_of_it_by_keyboard(browser: Browser, site: Site, api: httpx2.Client) -> None:
    """Log in, skip to the content, open a response, delete it, log out: nothing but Tab and Enter."""
    create(api, "by keyboard")
    async with window(browser, site.server) as visit:
        page = visit.page
        await visit.go("/login")
        await expect(page.get_by_label("API key")).to_be_focused()
        await page.keyboard.type(site.writer.text)
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/responses")
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
        await expect(page.get_by_role("link", name="Skip to the content")).to_be_in_viewport()
        await page.keyboard.press("Enter")
        await tab_to(visit, "by keyboard")
        await expect(page.locator(":focus-visible")).to_have_count(1)
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/responses/resp_*")
        await tab_to(visit, "Delete…")
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/delete")
        await tab_to(visit, "Delete the response")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("status")).to_have_text("The response was deleted.")
        await tab_to(visit, "Log out")
        await page.keyboard.press("Enter")
        await page.wait_for_url("**/login")
        await visit.check()


async def tab_to(visit: Visit, words: str) -> None:
    """Press Tab until what has the focus says this."""
    for _ in range(40):
        await visit.page.keyboard.press("Tab")
        if words in await visit.page.evaluate("document.activeElement.textContent"):
            return
    raise AssertionError(f"nothing says {words}")


async def test_without_scripts_everything_can_be_done(
    browser: Browser, site: Site, api: httpx2.Client
) -> None:
    name = create(api, "no scripts here")["id"]
    async with window(browser, site.server, java_script_enabled=False) as visit:
        await visit.log_in(site.writer)
        await visit.page.get_by_label("Words").fill("scripts")
        await visit.page.get_by_role("button", name="Filter").click()
        await visit.page.get_by_role("link", name="no scripts here").click()
        await visit.page.get_by_role("link", name="Delete").click()
        await visit.page.get_by_role("button", name="Delete the response").click()
        await expect(visit.page.get_by_role("status")).to_have_text("The response was deleted.")
        await visit.page.get_by_role("button", name="Log out").click()
        await expect(visit.page.get_by_role("heading", name="Log in")).to_be_visible()
    assert api.get(f"{CREATE}/{name}").status_code == 404


async def test_a_session_that_has_ended_leads_to_the_login(
    browser: Browser, site: Site, api: httpx2.Client
) -> None:
    async with window(browser, site.server) as visit:
        await visit.log_in(site.reader)
        await visit.go("/responses?model=offline")
        await visit.page.context.clear_cookies()
        create(api)
        await visit.page.wait_for_url("**/login?next=/ui/responses%3Fmodel%3Doffline")


async def test_a_bad_key_is_told_and_can_be_mended(browser: Browser, site: Site) -> None:
    async with window(browser, site.server) as visit:
        await visit.go("/login")
        await visit.page.get_by_label("API key").fill("hf_wrong")
        await visit.page.get_by_role("button", name="Log in").click()
        await expect(visit.page.get_by_role("alert")).to_contain_text("This key is not valid")
        # The browser says of every page with an error's status that it could not be loaded.
        visit.complaints.clear()
        await visit.check()
        await visit.page.get_by_label("API key").fill(site.writer.text)
        await visit.page.get_by_role("button", name="Log in").click()
        await visit.page.wait_for_url("**/responses")
