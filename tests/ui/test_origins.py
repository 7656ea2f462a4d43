"""Whatever changes something must come from our own page."""

import httpx2
import pytest

from tests.api.asking import create
from tests.ui.conftest import Site
from tests.ui.visiting import COOKIE, HOME, LOGIN, UI, is_let_in, log_in, shown, visiting

FOREIGN: list[dict[str, str]] = [
    {},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"sec-fetch-site": "none"},
    {"sec-fetch-site": "cross-site", "origin": "http://HOST"},
    {"origin": "http://evil.example"},
    {"origin": "http://["},
    {"origin": "http://HOST.evil.example"},
    {"origin": "http://evil.example/HOST"},
    {"origin": "null"},
    {"origin": ""},
]
OURS: list[dict[str, str]] = [
    {"sec-fetch-site": "same-origin"},
    {"sec-fetch-site": "same-origin", "origin": "http://evil.example"},
    {"origin": "http://HOST"},
    {"origin": "https://HOST"},
]


def at(site: Site, headers: dict[str, str]) -> dict[str, str]:
    return {name: value.replace("HOST", f"127.0.0.1:{site.server.port}") for name, value in headers.items()}


@pytest.mark.parametrize("headers", FOREIGN, ids=str)
def test_other_pages_change_nothing(
    site: Site, browser: httpx2.Client, api: httpx2.Client, headers: dict[str, str]
) -> None:
    made = create(api)
    for path in (
        f"{HOME}/{made['id']}/delete",
        f"{HOME}/{made['id']}/cancel",
        f"{UI}/logout",
        LOGIN,
        f"{UI}/x",
    ):
        answer = browser.post(path, data={"key": site.writer.text}, headers=at(site, headers))
        assert "was not sent from a page of this server" in shown(answer, 403)
        assert "set-cookie" not in answer.headers
    assert is_let_in(browser)
    assert api.get(f"/v1/responses/{made['id']}").status_code == 200


@pytest.mark.parametrize("headers", OURS, ids=str)
def test_our_own_do(site: Site, headers: dict[str, str]) -> None:
    with visiting(site.server) as browser:
        answer = browser.post(LOGIN, data={"key": site.writer.text}, headers=at(site, headers))
        assert answer.status_code == 303
        assert COOKIE in browser.cookies


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE"])
def test_other_methods_are_no_way_around(site: Site, browser: httpx2.Client, method: str) -> None:
    assert browser.request(method, HOME).status_code == 403
    assert browser.request(method, HOME, headers={"sec-fetch-site": "same-origin"}).status_code == 405


def test_a_form_is_bounded(site: Site) -> None:
    with visiting(site.server) as browser:
        assert "larger than" in shown(log_in(browser, "x" * 20_000), 413)
        fields = {f"field{number}": "x" for number in range(100)}
        answer = browser.post(LOGIN, data=fields, headers={"sec-fetch-site": "same-origin"})
        assert "too many fields" in shown(answer, 400)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"\xff\xfe\x00key=%FF%FE", "application/x-www-form-urlencoded"),
        (b"key=%zz&next=%", "application/x-www-form-urlencoded"),
        (b'{"key": 1}', "application/json"),
        (b"--x\r\n\r\n", "multipart/form-data; boundary=x"),
        (b"", ""),
        (b"&&&===;;;", "text/plain"),
    ],
)
def test_no_form_breaks_it(site: Site, content: bytes, kind: str) -> None:
    with visiting(site.server) as browser:
        headers = {"sec-fetch-site": "same-origin", "content-type": kind}
        assert "not valid" in shown(browser.post(LOGIN, content=content, headers=headers), 401)


def test_an_address_that_is_none_leads_to_the_first_page(site: Site) -> None:
    with httpx2.Client(base_url=f"http://127.0.0.1:{site.server.port}") as stranger:
        answer = stranger.get(HOME, headers={"HX-Current-URL": "http://["})
    assert answer.status_code < 500
