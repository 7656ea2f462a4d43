"""The page as a browser without scripts sees it."""

from collections.abc import Generator
from contextlib import contextmanager

import httpx2

from app.domain.keys import Key
from tests.keys import client_with
from tests.live import LiveServer

UI = "/ui"
HOME = "/ui/responses"
LOGIN = "/ui/login"
COOKIE = "holdfast_session"
OURS = {"sec-fetch-site": "same-origin"}
"""What browsers send along with a form of our own page."""


@contextmanager
def visiting(server: LiveServer, key: Key | None = None) -> Generator[httpx2.Client]:
    """A browser, logged in if there is a key. It follows no redirect by itself."""
    with client_with(server, None) as browser:
        if key:
            answer = log_in(browser, key.text)
            assert answer.status_code == 303, answer.text
            assert browser.cookies.get(COOKIE)
        yield browser


def log_in(browser: httpx2.Client, key: str, there: str = HOME, **headers: str) -> httpx2.Response:
    return browser.post(LOGIN, data={"key": key, "next": there}, headers={**OURS, **headers})


def is_let_in(browser: httpx2.Client) -> bool:
    answer = browser.get(HOME)
    assert answer.status_code in {200, 303}, answer.text
    assert answer.status_code == 200 or answer.headers["location"].startswith(LOGIN)
    return answer.status_code == 200


def shown(answer: httpx2.Response, status: int = 200) -> str:
    """The HTML of a page with this status."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    return answer.text
