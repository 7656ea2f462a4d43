"""Every page, with every kind of visitor and of id, against one table. A page without a row fails."""

from collections.abc import Iterator, Mapping

import httpx2
import pytest
from fastapi.routing import APIRoute, iter_route_contexts
from starlette.datastructures import State

from app.api.scopes import needed
from app.domain.tenancy import Scope
from app.ui.application import create_page
from tests.api.asking import MISSING, create
from tests.api.conversing import NO_ITEM, NOBODY, begin, items_of
from tests.keys import client_with
from tests.ui.conftest import Site
from tests.ui.visiting import LOGIN, OURS, UI, shown, visiting

Route = tuple[str, str]
READ, WRITE, AUDIT = Scope.READ, Scope.WRITE, Scope.AUDIT

TABLE: Mapping[Route, Scope | None] = {
    ("GET", "/"): None,
    ("GET", "/login"): None,
    ("POST", "/login"): None,
    ("POST", "/logout"): None,
    ("GET", "/static/{name}"): None,
    ("GET", "/responses"): READ,
    ("GET", "/responses/rows"): READ,
    ("GET", "/responses/{response_id}"): READ,
    ("GET", "/responses/{response_id}/turn"): READ,
    ("GET", "/responses/{response_id}/events"): READ,
    ("GET", "/responses/{response_id}/items/{place}"): READ,
    ("GET", "/responses/{response_id}/raw"): READ,
    ("GET", "/responses/{response_id}/tree"): READ,
    ("GET", "/responses/{response_id}/{part}.json"): READ,
    ("GET", "/responses/{response_id}/cancel"): WRITE,
    ("POST", "/responses/{response_id}/cancel"): WRITE,
    ("GET", "/responses/{response_id}/delete"): WRITE,
    ("POST", "/responses/{response_id}/delete"): WRITE,
    ("GET", "/stats"): READ,
    ("GET", "/stats/users"): READ,
    ("GET", "/audit"): AUDIT,
    ("GET", "/audit/newer"): AUDIT,
    ("GET", "/audit/verification"): AUDIT,
    ("GET", "/conversations"): READ,
    ("GET", "/conversations/{conversation_id}"): READ,
    ("GET", "/conversations/{conversation_id}/items/{item_id}"): READ,
}


def contexts() -> Iterator[tuple[Route, object]]:
    for route in iter_route_contexts(create_page(State()).routes):
        for method in (route.methods or set[str]()) - {"HEAD"}:
            yield (method, str(route.path).replace(":path", "")), route.original_route


ROUTES = dict(contexts())
GUARDED = sorted(route for route, scope in TABLE.items() if scope)
WITH_IDS = [route for route in GUARDED if "_id}" in route[1]]


def test_every_page_has_its_row() -> None:
    assert set(ROUTES) == set(TABLE)


@pytest.mark.parametrize("route", sorted(TABLE), ids=" ".join)
def test_every_page_declares_its_scope(route: Route) -> None:
    declared = ROUTES[route]
    assert isinstance(declared, APIRoute)
    assert needed(declared) == TABLE[route]


IDS = {
    "response_id": MISSING,
    "conversation_id": NOBODY,
    "item_id": NO_ITEM,
    "place": "0",
    "part": "response",
}


def ask(browser: httpx2.Client, route: Route, **named: str) -> httpx2.Response:
    method, path = route
    return browser.request(method, f"{UI}{path}".format_map({**IDS, **named}), headers=OURS)


@pytest.mark.parametrize("route", [*GUARDED, ("GET", "/"), ("POST", "/logout")], ids=" ".join)
def test_without_a_session_everything_leads_to_the_login(site: Site, route: Route) -> None:
    with visiting(site.server) as browser:
        answer = ask(browser, route)
        assert answer.status_code == 303
        assert answer.headers["location"].startswith(LOGIN)
        assert not answer.content


@pytest.mark.parametrize("route", [route for route in GUARDED if TABLE[route] == WRITE], ids=" ".join)
def test_who_may_only_read_changes_nothing(site: Site, api: httpx2.Client, route: Route) -> None:
    made = create(api)["id"]
    with visiting(site.server, site.reader) as browser:
        assert "Missing scopes: write" in shown(ask(browser, route, response_id=made), 403)
        page = shown(browser.get(f"{UI}/responses/{made}"))
        assert "Delete" not in page
    assert api.get(f"/v1/responses/{made}").status_code == 200


@pytest.fixture(scope="module")
def theirs(site: Site) -> Mapping[str, str]:
    """What the other tenant has."""
    with client_with(site.server, site.stranger) as stranger:
        conversation = begin(stranger, "secret")
        return {
            "response_id": create(stranger, "secret")["id"],
            "conversation_id": conversation,
            "item_id": items_of(stranger, conversation)[0]["id"],
        }


@pytest.mark.parametrize("route", WITH_IDS, ids=" ".join)
def test_another_tenants_id_is_a_missing_one(
    site: Site, browser: httpx2.Client, theirs: Mapping[str, str], route: Route
) -> None:
    """Law L7."""
    told = set[str]()
    for named in (theirs, {}):
        page = shown(ask(browser, route, **named), 404)
        for name in (*theirs.values(), MISSING, NOBODY, NO_ITEM):
            page = page.replace(name, "NAME")
        told.add(page)
    assert len(told) == 1
    with visiting(site.server, site.stranger) as owner:
        assert ask(owner, ("GET", "/responses/{response_id}"), **theirs).status_code == 200


@pytest.mark.parametrize("route", WITH_IDS, ids=" ".join)
@pytest.mark.parametrize("name", ["x", "resp_", "resp_x", "conv_" + "g" * 32, "%00", "resp_%ff", "' or 1=1"])
def test_an_id_that_cannot_be_one_is_an_error_in_words(
    browser: httpx2.Client, route: Route, name: str
) -> None:
    answer = ask(browser, route, response_id=name, conversation_id=name)
    assert answer.status_code in {400, 404}
    shown(answer, answer.status_code)


def test_lists_show_ones_own(site: Site, browser: httpx2.Client, theirs: Mapping[str, str]) -> None:
    for path, name in (("responses", "response_id"), ("conversations", "conversation_id")):
        assert theirs[name] not in shown(browser.get(f"{UI}/{path}"))
        with visiting(site.server, site.stranger) as owner:
            assert theirs[name] in shown(owner.get(f"{UI}/{path}"))
