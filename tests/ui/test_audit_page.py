"""The audit trail as a page: who may see it, what it says, and what a verification says of it."""

import asyncio
import re
from collections.abc import AsyncGenerator, Generator
from typing import Any

import httpx2
import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect

from app import ids
from app.domain.audit import WORDS, Action
from app.domain.keys import Key
from app.domain.tenancy import Scope
from app.ui import records
from tests.api.asking import CREATE, create
from tests.api.conversing import begin
from tests.background import execute
from tests.keys import IMPATIENT, client_with, new_key
from tests.live import LiveServer
from tests.trails import behind_the_trigger
from tests.ui.browsing import DESKTOP, NARROWEST, PHONE, chromium, window
from tests.ui.conftest import Site
from tests.ui.test_browser import picture, tab_to
from tests.ui.test_pages import checked, links
from tests.ui.visiting import HOME, UI, shown, visiting
from tests.waiting import until

AUDIT = f"{UI}/audit"
VERIFICATION = f"{AUDIT}/verification"
ALL = Scope.WRITE | Scope.AUDIT
SEAL_KEY = "c2VhbGVkIHdpdGggdGhpcnR5LXR3byBieXRlcy4uLi4="


@pytest.fixture(scope="module")
def auditor(site: Site) -> Key:
    """Of a new tenant each time, as this may be asked for again."""
    return asyncio.run(new_key(site.database_url, f"audited-{ids.new_uuid()}", ALL))


@pytest.fixture(scope="module")
def done(site: Site, auditor: Key) -> dict[str, str]:
    """What was done to what, by that key."""
    with client_with(site.server, auditor) as api:
        made, gone = create(api, "hi")["id"], create(api, "bye")["id"]
        name = begin(api, "My name is Ada.")
        api.post(f"/v1/conversations/{name}", json={"metadata": {"a": "b"}})
        assert api.delete(f"{CREATE}/{gone}").status_code == 200
    return {"made": made, "gone": gone, "conversation": name}


@pytest.fixture
def browser(site: Site, auditor: Key, done: dict[str, str]) -> Generator[httpx2.Client]:
    """Somebody with that key."""
    with visiting(site.server, auditor) as client:
        yield client


def rows(page: str) -> list[int]:
    return [int(seq) for seq in re.findall(r'id="record-(\d+)"', page)]


def said(page: str) -> list[str]:
    """What was done, by row."""
    return re.findall(r'class="done">([^<]+)<', page)


class TestWho:
    @pytest.mark.parametrize("path", [AUDIT, VERIFICATION, f"{AUDIT}/newer"])
    def test_a_key_that_does_not_audit_is_told_so(self, site: Site, path: str) -> None:
        for key in (site.reader, site.writer):
            with visiting(site.server, key) as visitor:
                assert "Missing scopes: audit" in checked(shown(visitor.get(path), 403))

    def test_the_way_there_is_shown_to_those_who_may_go(self, site: Site, browser: httpx2.Client) -> None:
        assert AUDIT in links(shown(browser.get(HOME)))
        with visiting(site.server, site.writer) as writer:
            assert AUDIT not in links(shown(writer.get(HOME)))

    async def test_another_tenants_trail_is_not_seen(self, site: Site, done: dict[str, str]) -> None:
        key = await new_key(site.database_url, "another", Scope.AUDIT)
        with visiting(site.server, key) as other:
            for query in ({}, {"subject": done["made"]}, {"action": "response.created"}):
                page = shown(other.get(AUDIT, params=query))
                assert not {"response.created", "conversation.created"} & set(
                    re.findall(r"<code>(\S+)<", page)
                )
                assert not rows(page) or done["made"] not in page
            assert "Intact" in shown(other.get(VERIFICATION))


class TestRecords:
    def test_what_was_done_is_told_in_words(self, browser: httpx2.Client, done: dict[str, str]) -> None:
        page = checked(shown(browser.get(AUDIT)))
        assert {
            "Response created",
            "Response deleted",
            "Conversation created",
            "Conversation changed",
        } <= set(said(page))
        assert rows(page) == sorted(rows(page), reverse=True)
        for path in (f"{HOME}/{done['made']}", f"{UI}/conversations/{done['conversation']}"):
            assert path in links(page)

    def test_a_hash_is_there_in_full(self, site: Site, browser: httpx2.Client, auditor: Key) -> None:
        page = shown(browser.get(AUDIT, params={"action": "response.deleted"}))
        with client_with(site.server, auditor) as api:
            [record] = api.get("/v1/audit/records", params={"action": "response.deleted"}).json()["data"]
        assert f'<span class="id">{record["hash"][:10]}…{record["hash"][-6:]}</span>' in page
        for name in ("hash", "previous_hash", "key_id", "subject"):
            assert f"<code>{record[name]}</code>" in page

    def test_filters(self, browser: httpx2.Client, auditor: Key, done: dict[str, str]) -> None:
        subject = {"subject": done["gone"]}
        page = checked(shown(browser.get(AUDIT, params={**subject, "action": "", "key_id": ""})))
        assert said(page) == ["Response deleted", "Response created"]
        both = {**subject, "action": "response.created", "key_id": ids.key_id(auditor.id)}
        page = checked(shown(browser.get(AUDIT, params=both)))
        assert said(page) == ["Response created"]
        assert 'value="response.created" selected' in page
        without = [link for link in links(page) if link.startswith(f"{AUDIT}?") and done["gone"] in link]
        assert len(without) >= 2
        page = shown(browser.get(AUDIT, params={**both, "action": "key.revoked"}))
        assert "No record fits" in page

    @pytest.mark.parametrize(
        "query", ["action=odd", "subject=x", "key_id=hf_1", "after=x", "after=-1", "subject=%00", "after=9" + "9" * 30]
    )  # fmt: skip
    def test_what_cannot_be_asked_is_refused_in_words(self, browser: httpx2.Client, query: str) -> None:
        assert "Invalid" in shown(browser.get(f"{AUDIT}?{query}"), 400)

    def test_a_whole_key_is_not_told_again(self, browser: httpx2.Client, auditor: Key) -> None:
        page = shown(browser.get(AUDIT, params={"key_id": auditor.text}), 400)
        assert auditor.text[-20:] not in page

    @pytest.mark.parametrize(
        "query", [{}, {"action": "response.created"}, {"action": "response.created", "key_id": "own"}]
    )
    def test_pages_follow_each_other(self, site: Site, query: dict[str, str]) -> None:
        key = asyncio.run(new_key(site.database_url, "many records", ALL))
        asked = {**query, "key_id": ids.key_id(key.id)} if "key_id" in query else query
        with client_with(site.server, key) as api, visiting(site.server, key) as visitor:
            made = [create(api, str(number))["id"] for number in range(55)]
            page, seen = shown(visitor.get(AUDIT, params=asked)), list[str]()
            while True:
                seen += re.findall(r"<dt>subject</dt><dd><code>(resp_\w+)</code>", page)
                older = re.findall(r'href="([^"]+)" rel="next"', page)
                if not older:
                    break
                page = shown(visitor.get(older[0].replace("&amp;", "&")))
                assert "Newest" in page
            assert [name for name in seen if name in made] == made[::-1]

    async def test_a_look_is_in_the_trail_itself(self, site: Site) -> None:
        key = await new_key(site.database_url, "looked at", ALL)
        with visiting(site.server, key) as visitor:
            assert "Nothing has been recorded yet" in checked(shown(visitor.get(AUDIT)))

            async def noted() -> bool:
                return "Audit trail read" in said(shown(visitor.get(AUDIT)))

            await until(noted)


class TestNewer:
    def test_what_has_come_since_is_counted(self, site: Site) -> None:
        key = asyncio.run(new_key(site.database_url, "newer", ALL))
        with client_with(site.server, key) as api, visiting(site.server, key) as visitor:
            create(api)
            page = shown(visitor.get(AUDIT, params={"action": "response.created"}))
            [path] = [link.replace("&amp;", "&") for link in re.findall(r'hx-get="([^"]+newer[^"]+)"', page)]
            assert visitor.get(path).status_code == 204
            gone = create(api)["id"]
            api.delete(f"{CREATE}/{gone}")
            part = shown(visitor.get(path))
            assert "1 newer" in part
            [path] = [link.replace("&amp;", "&") for link in re.findall(r'hx-get="([^"]+)"', part)]
            assert visitor.get(path).status_code == 204
            assert 'hx-get="/ui/audit/newer' not in shown(visitor.get(AUDIT, params={"after": "1"}))

    async def test_own_looks_do_not_hide_what_has_come_behind_them(self, site: Site) -> None:
        key = await new_key(site.database_url, "many looks", ALL)
        look = "insert into audit_outbox (tenant_id, key_id, action, data) select tenant_id, id, $2, '{}' from api_keys, generate_series(1, $3) where id = $1"
        with client_with(site.server, key) as api, visiting(site.server, key) as visitor:
            await execute(site.database_url, look, key.id, int(Action.AUDIT_READ), 150)
            assert visitor.get(f"{AUDIT}/newer").status_code == 204
            create(api)
            assert "1 newer" in shown(visitor.get(f"{AUDIT}/newer"))
            await execute(site.database_url, look, key.id, int(Action.AUDIT_READ), 1000)
            assert "1 newer" not in shown(visitor.get(f"{AUDIT}/newer"))
            assert "Over 99 newer" in shown(visitor.get(f"{AUDIT}/newer"))


async def test_a_page_with_what_cannot_be_read_says_so(site: Site) -> None:
    key = await new_key(site.database_url, "unreadable", ALL)
    await asyncio.to_thread(_do, site, key, 3)
    with visiting(site.server, key) as visitor:
        shown(visitor.get(AUDIT))
        for at in ("'4000-01-01 BC'", "'infinity'"):
            await tamper(site, key, f"at = {at}", seq=2)
            page = checked(shown(visitor.get(AUDIT)))
            assert ("cannot be read. A verification names it" in page) == at.endswith("BC'")
            assert re.search(r"Faulty</strong> Record <a[^>]+>2</a> ", shown(visitor.get(VERIFICATION)))
        await tamper(site, key, "data = '[[1]]', action = 77", seq=2)
        assert "Unknown 77" in said(checked(shown(visitor.get(AUDIT))))


async def tamper(site: Site, key: Key, change: str, *, seq: int) -> None:
    """Change a record as nobody may."""
    async with behind_the_trigger(site.database_url) as connection:
        found = f"tenant_id = (select tenant_id from api_keys where id = '{key.id}') and seq = {seq}"
        assert await connection.execute(f"update audit_records set {change} where {found}") == "UPDATE 1"


class TestVerification:
    def test_a_trail_that_is_what_it_was(self, browser: httpx2.Client) -> None:
        page = checked(shown(browser.get(VERIFICATION)))
        assert "Intact" in page
        assert re.search(r"Records 1 to \d+ are as they were written", page)
        assert "no seal key" in page
        part = shown(browser.get(VERIFICATION, headers={"hx-request": "true"}))
        assert "<html" not in part

    async def test_a_changed_record_is_named_and_led_to(self, site: Site) -> None:
        key = await new_key(site.database_url, "tampered", ALL)
        with client_with(site.server, key) as api, visiting(site.server, key) as visitor:
            for _ in range(5):
                create(api)
            shown(visitor.get(AUDIT))
            await tamper(site, key, "data = '{}'", seq=3)
            page = checked(shown(visitor.get(VERIFICATION)))
            assert "Faulty" in page
            assert re.search(r"Record <a[^>]+>3</a> was changed: its hash does not fit", page)
            assert "The 2 before it, from record 1 on, are as they were written" in page
            [to_record] = [link for link in links(page) if "#record-" in link]
            assert rows(shown(visitor.get(to_record)))[0] == 3

    def test_how_to_verify_all_of_it_is_told(self, site: Site) -> None:
        key = asyncio.run(new_key(site.database_url, "a; tenant's", ALL))
        with visiting(site.server, key) as visitor:
            page = checked(shown(visitor.get(AUDIT)))
        assert (
            "holdfast audit verify --tenant &#39;a; tenant&#39;&#34;&#39;&#34;&#39;s&#39; --contents" in page
        )

    def test_who_signs_is_told(self, site: Site) -> None:
        key = asyncio.run(new_key(site.database_url, "signed", ALL))
        environment = {**IMPATIENT, "HOLDFAST_SEAL_KEY": SEAL_KEY}
        with (
            LiveServer(site.database_url, environment=environment) as signing,
            client_with(signing, key) as api,
            visiting(signing, key) as visitor,
        ):
            create(api)
            page = shown(visitor.get(AUDIT))
            assert "none yet: one comes within a minute" in page
            assert "None of them has been vouched for" in shown(visitor.get(VERIFICATION))
            age = "update audit_heads set checkpoint_at = checkpoint_at - interval '2 minutes' where tenant_id = (select tenant_id from api_keys where id = $1)"
            asyncio.run(execute(site.database_url, age, key.id))
            create(api)
            page = shown(visitor.get(AUDIT))
            assert re.search(r"at record \d+, <time[^>]+>[^<]+</time>, signed by this server", page)
            assert "Signatures of this server vouch for all up to record" in shown(visitor.get(VERIFICATION))
            with visiting(site.server, key) as elsewhere:
                assert "signed by a key unknown here" in shown(elsewhere.get(AUDIT))


class TestWords:
    def test_every_action_has_words_of_its_own(self) -> None:
        found = [words for _, words in records.choices()]
        assert len(set(found)) == len(WORDS) == len(Action)
        assert all(words[0].isupper() and "." not in words for words in found)

    @pytest.mark.parametrize(
        ("data", "pairs"),
        [
            ("{}", []),
            ('{"status":"completed","count":0}', [("status", "completed"), ("count", "0")]),
            ('{"scopes":["read","audit"],"expires_days":null}', [("scopes", "read, audit")]),
            ('{"is_new":true,"more":{"a":[1]}}', [("is new", "yes"), ("more", '{"a": [1]}')]),
            ("[1]", [("", "1")]),
            ("not JSON", [("", "not JSON")]),
            ("", []),
            ("[" * 500 + "]" * 500, [("", "[" * 199 + "…")]),
        ],
    )
    def test_data(self, data: str, pairs: list[tuple[str, str]]) -> None:
        assert records._pairs(data) == pairs


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
        self, chrome: Browser, site: Site, auditor: Key, done: Any, size: tuple[int, int], scheme: str
    ) -> None:
        async with window(chrome, site.server, size=size, color_scheme=scheme) as visit:
            await visit.log_in(auditor)
            for name, path in (("audit", "/audit"), ("audit-nothing", "/audit?action=key.revoked"), ("verification", "/audit/verification")):  # fmt: skip
                await visit.go(path)
                await picture(visit, name, size)
                await visit.page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
                for details in await visit.page.locator("details").all():
                    await details.evaluate("each => each.open = true")
                await visit.check()

    async def test_the_narrowest_phone_scrolls_in_one_direction_alone(
        self, chrome: Browser, site: Site, auditor: Key, done: Any
    ) -> None:
        async with window(chrome, site.server, size=NARROWEST) as visit:
            await visit.log_in(auditor)
            await visit.go("/audit")
            for details in await visit.page.locator("details").all():
                await details.evaluate("each => each.open = true")
            await visit.check_width()

    async def test_it_is_verified_by_keyboard_and_what_is_wrong_is_found(
        self, chrome: Browser, site: Site
    ) -> None:
        key = await new_key(site.database_url, "by keyboard", ALL)
        await asyncio.to_thread(_do, site, key, 4)
        async with window(chrome, site.server) as visit:
            page = visit.page
            await visit.log_in(key)
            await visit.go("/audit")
            await tab_to(visit, "Verify all records")
            await page.keyboard.press("Enter")
            verdict = page.locator("#verdict")
            await expect(verdict).to_contain_text("Intact")
            assert page.url.endswith("/audit")
            await visit.check()
            await tamper(site, key, "hash = '\\x00'", seq=2)
            await page.get_by_role("button", name="Verify").press("Enter")
            await expect(verdict).to_contain_text("Record 2 was changed")
            await visit.check()
            await verdict.get_by_role("link").press("Enter")
            await page.wait_for_url("**/audit?after=3#record-2")
            await expect(page.locator("#record-2")).to_be_in_viewport()
            await visit.check()

    async def test_what_is_newer_is_hinted_at(self, chrome: Browser, site: Site) -> None:
        key = await new_key(site.database_url, "hinted", ALL)
        await asyncio.to_thread(_do, site, key, 1)
        async with window(chrome, site.server) as visit:
            await visit.log_in(key)
            await visit.go("/audit?action=response.created")
            await expect(visit.page.locator("tr[id]")).to_have_count(1)
            await asyncio.to_thread(_do, site, key, 2)
            await visit.page.get_by_role("link", name="2 newer").click()
            await expect(visit.page.locator("tr[id]")).to_have_count(3)
            await visit.check()

    async def test_without_scripts_it_is_verified_as_well(
        self, chrome: Browser, site: Site, auditor: Key, done: Any
    ) -> None:
        async with window(chrome, site.server, java_script_enabled=False) as visit:
            await visit.log_in(auditor)
            await visit.go("/audit")
            await visit.page.get_by_label("What was done").select_option("Response deleted")
            await visit.page.get_by_role("button", name="Filter").click()
            await expect(visit.page.locator("tr[id]")).to_have_count(1)
            await visit.page.get_by_role("button", name="Verify").click()
            await expect(visit.page.get_by_text("Intact")).to_be_visible()


def _do(site: Site, key: Key, count: int) -> None:
    with client_with(site.server, key) as api:
        for _ in range(count):
            create(api)
