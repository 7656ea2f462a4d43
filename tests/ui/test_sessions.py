"""Logging in and out: what a session is worth, and when it ends."""

from datetime import timedelta
from hashlib import sha256
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI
from starlette import types as asgi

from app.api.keyring import Keyring
from app.domain.tenancy import Scope
from app.store.db import Database
from app.ui.sessions import Sessions
from tests.background import execute
from tests.keys import new_key, revoke
from tests.live import LiveServer
from tests.ui.conftest import Site
from tests.ui.visiting import COOKIE, HOME, LOGIN, OURS, UI, is_let_in, log_in, shown, visiting
from tests.waiting import patience


def test_without_any_key_nobody_logs_in(server: LiveServer) -> None:
    with visiting(server) as browser:
        assert browser.get(UI).headers["location"] == HOME
        assert browser.get(f"{UI}/").headers["location"] == HOME
        page = shown(browser.get(HOME))
        assert "No key needed" in page
        assert "Log out" not in page
        assert (
            browser.get(LOGIN, params={"next": f"{UI}/conversations"}).headers["location"]
            == f"{UI}/conversations"
        )
        assert COOKIE not in browser.cookies


def test_the_way_leads_through_the_login_and_back(site: Site) -> None:
    there = f"{HOME}?status=completed&q=a+b"
    with visiting(site.server) as browser:
        answer = browser.get(there)
        assert answer.status_code == 303
        form = shown(browser.get(answer.headers["location"]))
        assert 'name="next" value="/ui/responses?status=completed&amp;q=a+b"' in form
        assert 'type="password"' in form
        assert log_in(browser, site.writer.text, there).headers["location"] == there
        page = shown(browser.get(there))
        assert site.writer.text[:11] in page
        assert "ours" in page
        assert site.writer.secret not in page


UNKNOWN = "hf_0196c1a2b3c4d5e6f708192a3b4c5d6e_" + "A" * 43
"""Well-formed, and nobody's."""


@pytest.mark.parametrize(
    "text", ["", " ", "hunter2", UNKNOWN, UNKNOWN[:-1] + "!", "\x00", "é" * 79, "hf_" + "0" * 76]
)
def test_a_bad_key_is_refused_in_words(site: Site, text: str) -> None:
    with visiting(site.server) as browser:
        page = shown(log_in(browser, text), 401)
        assert "This key is not valid" in page
        assert COOKIE not in browser.cookies
        assert not is_let_in(browser)


async def test_a_key_that_may_nothing_is_not_let_in(site: Site) -> None:
    key = await new_key(site.database_url, "ours", Scope(0))
    with visiting(site.server) as browser:
        assert "may not read" in shown(log_in(browser, key.text), 403)
        assert not is_let_in(browser)


@pytest.mark.parametrize("scope", [Scope.READ, Scope.WRITE, Scope.AUDIT, Scope.ADMIN])
async def test_whoever_may_read_is_let_in(site: Site, scope: Scope) -> None:
    with visiting(site.server, await new_key(site.database_url, "ours", scope)) as browser:
        assert is_let_in(browser)


@pytest.mark.parametrize(
    ("forwarded", "is_secure"), [("", False), ("https", True), ("https, http", True), ("http", False)]
)
def test_the_cookie(site: Site, forwarded: str, *, is_secure: bool) -> None:
    with visiting(site.server) as browser:
        answer = log_in(browser, site.writer.text, **({"x-forwarded-proto": forwarded} if forwarded else {}))
    value, *attributes = answer.headers["set-cookie"].split("; ")
    assert value.startswith(f"{COOKIE}=")
    said = {each.lower() for each in attributes}
    assert said == {
        "httponly",
        "samesite=strict",
        "path=/ui",
        "max-age=43200",
        *(["secure"] if is_secure else []),
    }


async def test_only_a_hash_of_the_cookie_is_stored(site: Site) -> None:
    with visiting(site.server, site.reader) as browser:
        token = browser.cookies[COOKIE]
        rows = await execute(
            site.database_url, "select hash, expires_at - created_at as age from ui_sessions"
        )
        assert timedelta(hours=12) in {row["age"] for row in rows}
        hashes = {row["hash"] for row in rows}
        assert sha256(token.encode()).digest() in hashes
        assert all(token.encode() not in hashed for hashed in hashes)
        assert site.reader.text not in token


@pytest.mark.parametrize(
    "there",
    [
        "https://evil.example", "//evil.example/ui/", "/ui//../../evil", "/\\evil.example", "/ui\\evil", "javascript:alert(1)",
        "/v1/responses", "", "/ui", "/uix/y", "/ui/\nset-cookie: a=b", "/ui/é", "/ui/x y",
    ],
)  # fmt: skip
def test_nobody_is_led_elsewhere(site: Site, there: str) -> None:
    with visiting(site.server) as browser:
        led = log_in(browser, site.writer.text, there).headers["location"]
        assert led == HOME or led.startswith("/ui/")
        assert "evil.example" not in led
        assert "\n" not in led


def test_logging_out_ends_the_session_for_whoever_has_the_cookie(site: Site) -> None:
    with visiting(site.server, site.writer) as browser, visiting(site.server) as thief:
        thief.cookies.set(COOKIE, browser.cookies[COOKIE], path="/ui")
        assert is_let_in(thief)
        answer = browser.post(f"{UI}/logout", headers=OURS)
        assert (answer.status_code, answer.headers["location"]) == (303, LOGIN)
        assert COOKIE not in browser.cookies
        assert not is_let_in(browser)
        assert not is_let_in(thief)


def test_logging_in_anew_ends_the_session_before(site: Site) -> None:
    with visiting(site.server, site.writer) as browser, visiting(site.server) as other:
        other.cookies.set(COOKIE, browser.cookies[COOKIE], path="/ui")
        assert log_in(browser, site.reader.text).status_code == 303
        assert is_let_in(browser)
        assert not is_let_in(other)


async def test_a_revoked_key_ends_its_sessions(site: Site) -> None:
    key = await new_key(site.database_url, "ours", Scope.READ)
    with visiting(site.server, key) as browser:
        assert is_let_in(browser)
        await revoke(site.database_url, key)
        assert not is_let_in(browser)


async def test_an_expired_key_ends_its_sessions(site: Site) -> None:
    key = await new_key(site.database_url, "ours", Scope.READ, lifetime=timedelta(hours=1))
    with visiting(site.server, key) as browser:
        assert is_let_in(browser)
        await execute(site.database_url, "update api_keys set expires_at = now() where id = $1", key.id)
        assert not is_let_in(browser)


async def test_a_session_lasts_for_its_time_alone(site: Site) -> None:
    with visiting(site.server, site.reader) as browser:
        hashed = sha256(browser.cookies[COOKIE].encode()).digest()
        await execute(site.database_url, "update ui_sessions set expires_at = now() where hash = $1", hashed)
        assert not is_let_in(browser)


@pytest.mark.parametrize("cookie", ["", "x", "A" * 43, "A" * 44, "%00" * 20, '"' * 43])
def test_an_invented_cookie_is_none(site: Site, cookie: str) -> None:
    with visiting(site.server) as browser:
        answer = browser.get(HOME, headers={"cookie": f"{COOKIE}={cookie}"})
        assert answer.status_code == 303


@pytest.mark.parametrize("cookie", ["x", "A" * 42, "A" * 44, "A" * 4000])
async def test_what_cannot_be_a_token_waits_for_nobody(db: Database, cookie: str) -> None:
    """A place in the queue for sessions is for what may be one."""
    reached = list[asgi.Scope]()

    async def page(scope: asgi.Scope, receive: asgi.Receive, send: asgi.Send) -> None:
        reached.append(scope)

    async def never(*_: object) -> Any:
        pytest.fail("nothing is asked or said")

    app = FastAPI()
    app.state.keyring = Keyring(db, cache_seconds=1)
    there = {"type": "http", "method": "GET", "path": "/ui/responses", "root_path": "", "query_string": b"", "app": app, "state": {}}  # fmt: skip
    guarded = Sessions(page)
    async with guarded._turn, patience():
        await guarded({**there, "headers": [(b"cookie", f"{COOKIE}={cookie}".encode())]}, never, never)
    assert reached


def test_the_cookie_is_no_key_of_the_api(site: Site, browser: httpx2.Client) -> None:
    assert browser.get("/v1/responses").status_code == 401
    token = browser.cookies[COOKIE]
    with visiting(site.server) as other:
        assert other.get("/v1/responses", headers={"authorization": f"Bearer {token}"}).status_code == 401
        assert other.get(HOME, headers={"authorization": f"Bearer {site.writer.text}"}).status_code == 303


class TestWhoAsksOtherwise:
    """Not every request is somebody who looks at a page."""

    def test_a_fragment_leads_the_whole_page_to_the_login(self, site: Site) -> None:
        with visiting(site.server) as browser:
            page = f"http://127.0.0.1:{site.server.port}{HOME}?status=failed"
            answer = browser.get(f"{HOME}/rows", headers={"hx-request": "true", "hx-current-url": page})
        assert answer.status_code == 401
        assert answer.headers["hx-redirect"] == f"{LOGIN}?next=/ui/responses%3Fstatus%3Dfailed"

    def test_a_stream_is_refused(self, site: Site) -> None:
        with visiting(site.server) as browser:
            answer = browser.get(f"{HOME}/resp_{'0' * 32}/events", headers={"accept": "text/event-stream"})
        assert answer.status_code == 401

    def test_who_comes_from_another_site_comes_again_from_ours(self, site: Site) -> None:
        """A strict cookie does not come along a link from elsewhere."""
        with visiting(site.server) as browser:
            answer = browser.get(f"{HOME}?q=x", headers={"sec-fetch-site": "cross-site"})
        page = shown(answer)
        assert '<meta http-equiv="refresh" content="0">' in page
        assert 'href="/ui/responses?q=x"' in page
