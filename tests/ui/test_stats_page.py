"""The statistics: what they count, of whom, and how that looks."""

import asyncio
import re
from collections.abc import AsyncGenerator, Generator
from datetime import timedelta

import httpx2
import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

from app import ids
from app.domain.keys import Key
from app.domain.response import Status
from app.domain.tenancy import Scope
from app.ui.spans import today
from tests.api.asking import create
from tests.keys import client_with, new_key
from tests.ui.browsing import DESKTOP, NARROWEST, PHONE, chromium, window
from tests.ui.conftest import Site
from tests.ui.counting import put_counts
from tests.ui.test_browser import picture
from tests.ui.test_pages import checked, links
from tests.ui.visiting import HOME, UI, shown, visiting

STATS = f"{UI}/stats"
TODAY = today()
WEEK = {"from": str(TODAY - timedelta(days=6)), "to": str(TODAY)}
"""Named by its days, as midnight may pass while these tests run."""
LONG = "a-model-with-a-name-that-goes-on/" + "and-on-" * 12


@pytest.fixture(scope="module")
def counted(site: Site) -> Key:
    """A key of a tenant that has been there for a year; a new one each time, as this may be asked for again."""
    key = asyncio.run(new_key(site.database_url, f"counted-{ids.new_uuid()}", Scope.READ))
    days = [
        (TODAY - timedelta(days=i), f"model-{i % 7}", status, 3 + i % 5 if status is Status.COMPLETED else 1)
        for i in range(1, 400)
        for status in (Status.COMPLETED, [Status.FAILED, Status.CANCELLED, Status.INCOMPLETE][i % 3])
    ]
    fixed = [(TODAY, "<b>bold</b>", Status.COMPLETED, 40), (TODAY, LONG, Status.FAILED, 10)]
    asyncio.run(put_counts(site.database_url, key, [*days, *fixed]))
    return key


@pytest.fixture
def reader(site: Site, counted: Key) -> Generator[httpx2.Client]:
    """Somebody of that tenant."""
    with visiting(site.server, counted) as browser:
        yield browser


def tiles(page: str) -> dict[str, str]:
    """What the page says of everything together."""
    whole = page.partition('<dl class="tiles">')[2].partition("</dl>")[0]
    found = re.findall(r"<dt>([^<]+)</dt><dd>(.*?)</dd>", whole)
    return {name: " ".join(re.sub(r"<[^>]+>", " ", value).split()) for name, value in found}


def table(page: str, name: str) -> list[list[str]]:
    """The rows of the table beside a plot."""
    figure = page.partition(f'id="plot-{name}"')[2].partition("</figure>")[0]
    rows = re.findall(r"<tr>(.*?)</tr>", figure.partition("<tbody>")[2], re.DOTALL)
    return [re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", row) for row in rows]


class TestCounts:
    def test_they_are_those_of_the_api(self, site: Site, reader: httpx2.Client, counted: Key) -> None:
        page = checked(shown(reader.get(STATS, params=WEEK)))
        query = {"group_by": "status", "created_after": WEEK["from"]}
        with client_with(site.server, counted) as api:
            groups = api.get("/v1/responses/stats", params=query).json()["data"]
        count = sum(group["count"] for group in groups)
        failed = sum(group["count"] for group in groups if group["status"] == "failed")
        assert tiles(page) == {
            "Responses": f"{count}",
            "Failed": f"{failed / count * 100:.1f} %",
            "Input tokens": f"{count * 100:,} of which cached {count * 10:,}",
            "Output tokens": f"{count * 20:,} of which reasoning {count * 5:,}",
            "Cost": f"${count * 0.5:.2f} as far as it is known",
            "Time": "2.0 s 50 % within 2.0 s 95 % 2.0 s 99 %",
        }

    def test_by_day_and_status(self, reader: httpx2.Client) -> None:
        page = shown(reader.get(STATS, params=WEEK))
        rows = table(page, "responses")
        assert len(rows) == 7
        assert rows[0] == [f"{TODAY.day} {TODAY:%b} {TODAY.year}", "40", "0", "10", "0"]
        assert rows[1][1:] == ["4", "0", "0", "1"]
        assert table(page, "cost")[0][1] == "$25.00"
        assert table(page, "tokens")[0][1:] == ["4,500", "500", "750", "250"]
        assert f"<title>{rows[0][0]}: 40 completed, 10 failed</title>" in page

    def test_by_day_and_model(self, reader: httpx2.Client) -> None:
        page = checked(shown(reader.get(STATS, params={"by": "model", **WEEK})))
        assert table(page, "responses")[0][1:3] == ["40", "10"]
        assert "&lt;b&gt;bold&lt;/b&gt;" in page
        assert ">Others<" in page

    def test_filters(self, reader: httpx2.Client) -> None:
        page = checked(shown(reader.get(STATS, params={"model": "<b>bold</b>", "status": "", "to": ""})))
        assert tiles(page)["Responses"] == "40"
        page = checked(shown(reader.get(STATS, params={"model": LONG, "status": "failed", "by": "model"})))
        assert tiles(page)["Responses"] == "10"
        assert tiles(page)["Failed"] == "100 %"
        assert f"{STATS}?status=failed&by=model" in links(page)
        page = shown(reader.get(STATS, params={"model": "nowhere"}))
        assert "No response of these days fits" in page

    def test_a_range_of_days(self, reader: httpx2.Client) -> None:
        first, last = TODAY - timedelta(days=9), TODAY - timedelta(days=8)
        page = shown(reader.get(STATS, params={"from": str(first), "to": str(last)}))
        assert len(table(page, "responses")) == 2
        assert f'value="{first}"' in page
        assert 'aria-current="page">7 days' not in page
        to_list = next(link for link in links(page) if link.startswith(f"{HOME}?"))
        assert f"created_after={first}T00%3A00" in to_list
        assert f"created_before={last + timedelta(days=1)}T00%3A00" in to_list

    def test_a_year_is_shown_by_weeks(self, reader: httpx2.Client) -> None:
        page = checked(shown(reader.get(STATS, params=WEEK | {"from": str(TODAY - timedelta(days=364))})))
        assert "Responses per week" in page
        assert len(table(page, "responses")) == 53

    @pytest.mark.parametrize(
        "query", ["days=8", "from=soon", "to=2026-02-30", "from=9999-12-31", "from=0001-01-01", "status=queued", "by=user", "from=2026-01-02&to=2026-01-01"]
    )  # fmt: skip
    def test_what_cannot_be_asked_is_refused_in_words(self, reader: httpx2.Client, query: str) -> None:
        assert "Invalid" in shown(reader.get(f"{STATS}?{query}"), 400)

    @pytest.mark.parametrize("query", ["to=0001-01-01", "model=%00", "model=%ff", "to=9999-12-31", "x=1"])
    def test_what_is_nowhere_is_empty(self, reader: httpx2.Client, query: str) -> None:
        checked(shown(reader.get(f"{STATS}?{query}")))

    def test_rows_lead_to_the_list(self, site: Site) -> None:
        key = asyncio.run(new_key(site.database_url, "leading"))
        with client_with(site.server, key) as api, visiting(site.server, key) as browser:
            made = create(api, user="ada & co")["id"]
            page = checked(shown(browser.get(STATS)))
            [to_model] = [link for link in links(page) if "model=offline" in link]
            assert made in shown(browser.get(to_model))
            page = checked(shown(browser.get(f"{STATS}/users")))
            [to_user] = [link for link in links(page) if "user=" in link]
            assert made in shown(browser.get(to_user))


class TestUsers:
    def test_those_with_the_most_come_first(self, site: Site) -> None:
        key = asyncio.run(new_key(site.database_url, "users"))
        with client_with(site.server, key) as api, visiting(site.server, key) as browser:
            for number in range(12):
                create(api, user=f"user-{number}")
            create(api, user="user-7")
            create(api)
            page = checked(shown(browser.get(f"{STATS}/users")))
            found = re.findall(r'<td class="what">(?:<[^>]+>)?([^<]+)<', page)
            assert found[0] == "user-7"
            assert len(found) == 10
            assert "And others with fewer" in page
            part = shown(browser.get(f"{STATS}/users", headers={"hx-request": "true"}))
            assert "<html" not in part
            assert "user-7" in part

    def test_over_too_many_days_they_are_not_counted(self, reader: httpx2.Client) -> None:
        for days, is_too_long in ((92, False), (93, True)):
            query = WEEK | {"from": str(TODAY - timedelta(days=days - 1))}
            page = checked(shown(reader.get(f"{STATS}/users", params=query)))
            assert ("Users are counted over at most 92 days" in page) == is_too_long

    def test_who_named_no_user_is_nobody(self, site: Site) -> None:
        key = asyncio.run(new_key(site.database_url, "nameless"))
        with client_with(site.server, key) as api, visiting(site.server, key) as browser:
            create(api)
            page = shown(browser.get(f"{STATS}/users"))
            assert '<span class="faint">No user named</span>' in page


class TestWho:
    def test_another_tenants_are_not_counted(self, site: Site) -> None:
        key = asyncio.run(new_key(site.database_url, "apart"))
        with client_with(site.server, key) as api, visiting(site.server, key) as browser:
            create(api, user="only one")
            page = shown(browser.get(STATS))
            assert tiles(page)["Responses"] == "1"
            assert "model-" not in page
        with visiting(site.server, site.stranger) as stranger:
            assert "only one" not in shown(stranger.get(f"{STATS}/users"))
            assert "model-" not in shown(stranger.get(STATS))

    def test_without_any_response_it_says_how_to_begin(self, site: Site) -> None:
        key = asyncio.run(new_key(site.database_url, "nothing counted", Scope.WRITE))
        with client_with(site.server, key) as api, visiting(site.server, key) as browser:
            page = checked(shown(browser.get(STATS)))
            assert "Nothing to count yet" in page
            assert "/v1/responses" in page
            api.post("/v1/responses", json={"model": "offline", "input": "x", "background": True})
            assert "No response of these days has ended" in shown(browser.get(STATS))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chrome() -> AsyncGenerator[Browser]:
    async with chromium() as started:
        yield started


@pytest.mark.asyncio(loop_scope="module")
class TestInTheBrowser:
    @pytest.mark.parametrize(
        ("size", "scheme"), [(PHONE, "light"), (DESKTOP, "dark")], ids=["phone", "desktop"]
    )
    async def test_it_is_sound(
        self, chrome: Browser, site: Site, counted: Key, size: tuple[int, int], scheme: str
    ) -> None:
        async with window(chrome, site.server, size=size, color_scheme=scheme) as visit:
            await visit.log_in(counted)
            for name, path in (("stats", "/stats"), ("stats-models", "/stats?days=7&by=model"), ("users", "/stats/users")):  # fmt: skip
                await visit.go(path)
                await picture(visit, name, size)
                await visit.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
                for details in await visit.page.locator("details").all():
                    await details.evaluate("each => each.open = true")
                await visit.check()

    async def test_the_narrowest_phone_scrolls_in_one_direction_alone(
        self, chrome: Browser, site: Site, counted: Key
    ) -> None:
        async with window(chrome, site.server, size=NARROWEST) as visit:
            await visit.log_in(counted)
            await visit.go("/stats?days=90&by=model")
            for details in await visit.page.locator("details").all():
                await details.evaluate("each => each.open = true")
            await visit.check_width()

    async def test_users_are_counted_once_they_are_in_sight(self, chrome: Browser, site: Site) -> None:
        key = await new_key(site.database_url, "in sight")
        async with window(chrome, site.server) as visit:
            await visit.log_in(key)
            await asyncio.to_thread(make_one, site, key)
            await visit.go("/stats")
            assert not [url for url in visit.requested if "/stats/users" in url]
            await visit.page.get_by_role("heading", name="Users").scroll_into_view_if_needed()
            await expect(visit.page.get_by_role("link", name="grace")).to_be_visible()
            await visit.check()

    async def test_by_keyboard(self, chrome: Browser, site: Site, counted: Key) -> None:
        """Other days, another split, the numbers of a plot: all without a mouse."""
        async with window(chrome, site.server) as visit:
            page = visit.page
            await visit.log_in(counted)
            await visit.go("/stats")
            await page.get_by_role("link", name="7 days").focus()
            await page.keyboard.press("Enter")
            await page.wait_for_url("**/stats?days=7")
            await page.get_by_role("link", name="model", exact=True).focus()
            await page.keyboard.press("Enter")
            await page.wait_for_url("**/stats?days=7&by=model")
            numbers = page.get_by_role("region", name="Responses per day, in numbers")
            await expect(numbers).to_be_hidden()
            await page.locator("summary").first.focus()
            await page.keyboard.press("Enter")
            await expect(numbers).to_be_visible()
            await page.keyboard.press("Tab")
            await expect(numbers).to_be_focused()
            await page.get_by_label("Status").select_option("failed")
            await page.get_by_role("textbox", name="Model").press("Enter")
            await page.wait_for_url("**/stats?status=failed&days=7&by=model")
            await visit.check()


def make_one(site: Site, key: Key) -> None:
    with client_with(site.server, key) as api:
        create(api, user="grace")
