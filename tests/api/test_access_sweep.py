"""Every route, with every kind of key and of id, against one table. A route without a row fails."""

import asyncio
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx2
import pytest
from fastapi.routing import APIRoute, APIWebSocketRoute, iter_route_contexts

from app.api.authentication import is_guarded
from app.api.scopes import needed
from app.domain.keys import Key, mint
from app.domain.tenancy import Scope
from app.main import create_app
from app.settings import Settings
from tests.api import conversing
from tests.api.asking import MISSING, create, refusal
from tests.api.conversing import CONVERSATIONS, NO_ITEM, NOBODY
from tests.api.socketing import HANDSHAKE
from tests.background import execute
from tests.keys import IMPATIENT, client_with, new_key, revoke
from tests.live import LiveServer
from tests.prompting import NO_PROMPT, keep

Route = tuple[str, str]

READ, WRITE, AUDIT = Scope.READ, Scope.WRITE, Scope.AUDIT
MALFORMED = 400
"""Of an id that cannot be one, OpenAI says so; that is no secret of anybody's."""


@dataclass(frozen=True, slots=True)
class Row:
    """What is expected of a route."""

    scope: Scope
    foreign: int | None = None
    """Status for an id of another tenant, and for a missing one; None where the path has no id."""
    malformed: int | None = None
    body: Mapping[str, Any] | None = None
    """What a good request sends, where it sends anything."""
    granted: int = 200


def of_one(scope: Scope, body: Mapping[str, Any] | None = None) -> Row:
    """A route with an id in its path."""
    return Row(scope, foreign=404, malformed=MALFORMED, body=body)


ITEM = {"items": [conversing.said("x")]}
HOOK = {"name": "x", "url": "https://example.com", "event_types": ["response.completed"]}
HOOKS = "/v1/webhook_endpoints/{webhook_endpoint_id}"
OPEN = {
    ("GET", "/healthz"), ("GET", "/readyz"), ("GET", "/openapi.json"), ("GET", "/docs"),
    ("GET", "/docs/oauth2-redirect"), ("GET", "/redoc"),
}  # fmt: skip
"""What anybody may ask for."""

TABLE: dict[Route, Row] = {
    ("POST", "/v1/responses"): Row(WRITE, body={"model": "offline", "input": "hi"}),
    ("GET", "/v1/responses"): Row(READ),
    ("WEBSOCKET", "/v1/responses"): Row(WRITE, granted=101),
    ("GET", "/v1/responses/stats"): Row(READ),
    ("GET", "/v1/responses/export"): Row(AUDIT),
    ("GET", "/v1/responses/{response_id}/lineage"): of_one(READ),
    ("GET", "/v1/responses/{response_id}"): of_one(READ),
    ("DELETE", "/v1/responses/{response_id}"): of_one(WRITE),
    ("POST", "/v1/responses/{response_id}/cancel"): of_one(WRITE),
    ("GET", "/v1/responses/{response_id}/attempts"): of_one(READ),
    ("GET", "/v1/responses/{response_id}/input_items"): of_one(READ),
    ("GET", "/v1/responses/{response_id}/context"): of_one(READ),
    ("POST", "/v1/responses/input_tokens"): Row(READ, body={"input": "hi"}),
    ("POST", "/v1/responses/compact"): Row(WRITE, body={"model": "offline", "input": "hi"}),
    ("POST", "/v1/conversations"): Row(WRITE, body={}),
    ("GET", "/v1/conversations"): Row(READ),
    ("GET", "/v1/conversations/{conversation_id}"): of_one(READ),
    ("POST", "/v1/conversations/{conversation_id}"): of_one(WRITE, {"metadata": {}}),
    ("DELETE", "/v1/conversations/{conversation_id}"): of_one(WRITE),
    ("POST", "/v1/conversations/{conversation_id}/fork"): of_one(WRITE, {}),
    ("POST", "/v1/conversations/{conversation_id}/items"): of_one(WRITE, ITEM),
    ("GET", "/v1/conversations/{conversation_id}/items"): of_one(READ),
    ("GET", "/v1/conversations/{conversation_id}/items/{item_id}"): of_one(READ),
    ("DELETE", "/v1/conversations/{conversation_id}/items/{item_id}"): of_one(WRITE),
    ("GET", "/v1/conversations/{conversation_id}/context"): of_one(READ),
    ("POST", "/v1/prompts"): Row(WRITE, body={"template": {}}),
    ("GET", "/v1/prompts"): Row(READ),
    ("GET", "/v1/prompts/{prompt_id}"): of_one(READ),
    ("POST", "/v1/prompts/{prompt_id}"): of_one(WRITE, {"name": "x"}),
    ("DELETE", "/v1/prompts/{prompt_id}"): of_one(WRITE),
    ("POST", "/v1/prompts/{prompt_id}/versions"): of_one(WRITE, {"template": {}}),
    ("GET", "/v1/prompts/{prompt_id}/versions"): of_one(READ),
    ("GET", "/v1/audit/records"): Row(AUDIT),
    ("GET", "/v1/audit/checkpoints"): Row(AUDIT),
    ("GET", "/v1/audit/verification"): Row(AUDIT),
    ("GET", "/v1/webhook_event_types"): Row(READ),
    ("GET", "/v1/webhook_endpoints"): Row(READ),
    ("POST", "/v1/webhook_endpoints"): Row(WRITE, body=HOOK),
    ("GET", HOOKS): of_one(READ),
    ("POST", HOOKS): of_one(WRITE, {"name": "x"}),
    ("DELETE", HOOKS): of_one(WRITE),
    ("POST", f"{HOOKS}/rotate_secret"): of_one(WRITE, {}),
    ("POST", f"{HOOKS}/test"): of_one(WRITE, {"event_type": "response.failed"}),
    ("GET", f"{HOOKS}/deliveries"): of_one(READ),
    ("GET", f"{HOOKS}/deliveries/{{event_id}}"): of_one(READ),
    ("POST", f"{HOOKS}/deliveries/{{event_id}}/replay"): of_one(WRITE),
    ("GET", "/v1/models"): Row(READ),
    ("GET", "/v1/models/{model}"): Row(READ),
}


def contexts() -> Iterator[tuple[Route, Any]]:
    for route in iter_route_contexts(create_app(Settings()).routes):
        if isinstance(route.original_route, APIWebSocketRoute):
            yield ("WEBSOCKET", str(route.path)), route.original_route
        for method in (route.methods or set[str]()) - {"HEAD"}:
            yield (method, str(route.path).replace(":path", "")), route.original_route


ROUTES = dict(contexts())
GUARDED = sorted(route for route in ROUTES if is_guarded(route[1]))
WITH_IDS = [route for route in GUARDED if "{" in route[1] and route in TABLE and TABLE[route].foreign]


def test_every_route_has_its_row() -> None:
    assert set(ROUTES) == set(TABLE) | OPEN
    assert set(GUARDED) == set(TABLE)


@pytest.mark.parametrize("route", GUARDED, ids=" ".join)
def test_every_route_declares_its_scope(route: Route) -> None:
    """In the code beside it; the table only says what it ought to be."""
    declared = ROUTES[route]
    assert isinstance(declared, APIRoute | APIWebSocketRoute)
    assert needed(declared) == TABLE[route].scope


def test_what_is_open_declares_none() -> None:
    assert not [path for path in OPEN if isinstance(ROUTES[path], APIRoute) and needed(ROUTES[path])]


def test_ids_in_a_path_have_their_answers() -> None:
    """A path with an id has to say what a foreign and a malformed one get; a model's name is no id."""
    of_rows = {route for route in GUARDED if "_id}" in route[1]}
    assert of_rows == {route for route, row in TABLE.items() if row.foreign and row.malformed}


@dataclass(frozen=True, slots=True)
class Place:
    """A server with two tenants, and what the second one has."""

    client: httpx2.Client
    keys: Mapping[str, Key]
    theirs: Mapping[str, str]


@pytest.fixture(scope="module")
def place(quiet_database_url: str) -> Generator[Place]:
    made = asyncio.run(make_keys(quiet_database_url))
    with LiveServer(quiet_database_url, environment=SERVED) as server:
        with client_with(server, made["stranger"]) as stranger:
            conversation = conversing.begin(stranger, "secret")
            theirs = {
                "response_id": create(stranger, "secret")["id"],
                "conversation_id": conversation,
                "item_id": conversing.items_of(stranger, conversation)[0]["id"],
                "webhook_endpoint_id": stranger.post("/v1/webhook_endpoints", json=HOOK).json()["id"],
                "prompt_id": keep(stranger, {"instructions": "secret"})["id"],
            }
        theirs["event_id"] = asyncio.run(end_of(quiet_database_url, theirs))
        with client_with(server, None) as client:
            yield Place(client, made, theirs)


async def end_of(database_url: str, theirs: Mapping[str, str]) -> str:
    """The end of a response, told to their endpoint: as if it had been one in the background."""
    response, endpoint = (theirs[name].rpartition("_")[2] for name in ("response_id", "webhook_endpoint_id"))
    insert = """
        insert into webhook_deliveries (tenant_id, endpoint_id, event_id, event_type)
        select tenant_id, id, $2, 'response.completed' from webhook_endpoints where id = $1
    """
    await execute(database_url, insert, endpoint, response)
    return f"evt_{response}"


async def make_keys(database_url: str) -> dict[str, Key]:
    made = {scope: await new_key(database_url, "ours", Scope[scope.upper()]) for scope in SCOPES}
    made["stranger"] = await new_key(database_url, "theirs", Scope.ADMIN)
    made["expired"] = await new_key(database_url, "ours", lifetime=timedelta(seconds=-1))
    made["revoked"] = await new_key(database_url, "ours", Scope.ADMIN)
    await revoke(database_url, made["revoked"])
    return made


SERVED = {**IMPATIENT, "HOLDFAST_SEAL_KEY": "A" * 43 + "="}
SCOPES = ("read", "write", "audit", "admin")
MISSING_IDS = {
    "response_id": MISSING, "conversation_id": NOBODY, "item_id": NO_ITEM,
    "webhook_endpoint_id": "we_" + "0" * 32, "event_id": "evt_" + "0" * 32,
    "prompt_id": NO_PROMPT,
}  # fmt: skip


def ask(
    place: Place, route: Route, key: Key | str | None, named: Mapping[str, str] = MISSING_IDS, **sent: Any
) -> httpx2.Response:
    method, path = route
    path = path.format_map({"model": "offline", **named})
    row, text = TABLE.get(route), key.text if isinstance(key, Key) else key
    if row and row.body is not None and not sent:
        sent = {"json": row.body}
    if text is not None:
        sent["headers"] = [("authorization", f"Bearer {text}")]
    if method == "WEBSOCKET":
        # A refusal of an upgrade is an answer like any other, and a plain client reads it.
        method, sent["headers"] = "GET", [*HANDSHAKE.items(), *sent.get("headers", ())]
    return place.client.request(method, path, **sent)


BAD: dict[str, str] = {
    "bad": mint().text,
    "foreign": "sk-proj-" + "a" * 40,
    "short": "hunter2",
    "cut": "hf_" + "0" * 32,
    "spaces": "a b c",
}


def check_401(answer: httpx2.Response, *, begins: str) -> None:
    told = refusal(answer)
    assert (told.status, told.code, told.param) == (401, "invalid_api_key", None)
    assert told.type == "invalid_request_error"
    assert told.message.startswith(begins)
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.headers["x-request-id"].startswith("req_")


INCORRECT = "Incorrect API key provided: "
NO_KEY = "You didn't provide an API key."


@pytest.mark.parametrize("route", GUARDED, ids=" ".join)
def test_without_a_key_nothing_is_told(place: Place, route: Route) -> None:
    check_401(ask(place, route, None), begins=NO_KEY)
    # A body that is wrong in every way changes nothing: it is not looked at (behaviour 143). An upgrade has none.
    if route[0] != "WEBSOCKET":
        check_401(ask(place, route, None, content=b'{"model":'), begins=NO_KEY)


HEADERS = ["", "Bearer", "bearer", "Basic aGY6eA==", "hf_x", "Token abc", "\xff\xfe"]


@pytest.mark.parametrize("route", GUARDED, ids=" ".join)
def test_a_malformed_header_is_no_key(place: Place, route: Route) -> None:
    for header in HEADERS:
        headers = [(b"authorization", header.encode("latin-1"))]
        check_401(ask(place, route, None, headers=headers), begins=NO_KEY)


@pytest.mark.parametrize("route", GUARDED, ids=" ".join)
def test_of_two_headers_neither_counts(place: Place, route: Route) -> None:
    value = f"Bearer {place.keys['admin'].text}"
    headers = [("authorization", value), ("authorization", value)]
    check_401(ask(place, route, None, headers=headers), begins=NO_KEY)


@pytest.mark.parametrize("route", GUARDED, ids=" ".join)
def test_a_wrong_key_is_refused_and_not_repeated(place: Place, route: Route) -> None:
    for key in BAD.values():
        answer = ask(place, route, key)
        check_401(answer, begins=INCORRECT)
        assert key not in answer.text


@pytest.mark.parametrize("route", GUARDED, ids=" ".join)
def test_a_key_that_has_ended_is_an_unknown_one(place: Place, route: Route) -> None:
    with_wrong_secret = Key(place.keys["admin"].id, mint().secret)
    for key in (place.keys["expired"], place.keys["revoked"], with_wrong_secret):
        answer = ask(place, route, key)
        check_401(answer, begins=INCORRECT)
        assert answer.json()["error"]["message"] == f"{INCORRECT}hf_****{key.text[-4:]}."
        assert key.secret not in answer.text


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("route", GUARDED, ids=" ".join)
def test_a_key_may_do_what_its_scope_says(place: Place, route: Route, scope: str) -> None:
    wanted = TABLE[route].scope
    # Of a route that is allowed, what comes next is the lookup of an id that is missing.
    answer = ask(place, route, place.keys[scope])
    if wanted in Scope[scope.upper()].granted:
        assert answer.status_code == (TABLE[route].foreign or TABLE[route].granted)
        return
    told = refusal(answer)
    assert (told.status, told.code, told.type) == (403, "insufficient_permissions", "invalid_request_error")
    assert told.message.endswith(f"Missing scopes: {(wanted.name or '').lower()}.")


@pytest.mark.parametrize(
    "route", [route for route in GUARDED if route[0] not in {"GET", "WEBSOCKET"}], ids=" ".join
)
def test_a_missing_scope_is_told_before_the_request_is_read(place: Place, route: Route) -> None:
    if TABLE[route].scope is WRITE:
        answer = ask(place, route, place.keys["audit"], content=b'{"model":', params={"include": "nonsense"})
        assert answer.status_code == 403


def told(answer: httpx2.Response, names: Mapping[str, str]) -> tuple[int, str, dict[str, str]]:
    """All that a client gets, but for its own words and for what differs between any two requests."""
    text, headers = answer.text, dict(answer.headers)
    for name, value in names.items():
        text = text.replace(value, name)
    for name in ("x-request-id", "openai-processing-ms", "date"):
        headers.pop(name)
    return answer.status_code, text, headers


@pytest.mark.parametrize("route", WITH_IDS, ids=" ".join)
def test_a_foreign_id_is_a_missing_one(place: Place, route: Route) -> None:
    """Law L7, byte for byte, whatever the other tenant has there."""
    missing, foreign = (
        told(ask(place, route, place.keys["admin"], names), names) for names in (MISSING_IDS, place.theirs)
    )
    assert missing == foreign
    assert missing[0] == TABLE[route].foreign


@pytest.mark.parametrize("route", WITH_IDS, ids=" ".join)
def test_what_was_foreign_was_there(place: Place, route: Route) -> None:
    """Else the comparison above would be one of nothing with nothing."""
    if route[0] == "GET":
        answer = ask(place, route, place.keys["stranger"], place.theirs)
        assert answer.status_code in {200, 400}, answer.text
        assert place.theirs.keys() <= MISSING_IDS.keys()


@pytest.mark.parametrize("route", WITH_IDS, ids=" ".join)
def test_a_malformed_id_is_refused(place: Place, route: Route) -> None:
    for name in ("x", "%00", "ü", "..."):
        names = {**dict.fromkeys(MISSING_IDS, name), "item_id": NO_ITEM}
        answer = ask(place, route, place.keys["admin"], names)
        assert refusal(answer).status == TABLE[route].malformed


@pytest.mark.parametrize("route", WITH_IDS, ids=" ".join)
def test_what_only_begins_like_an_id_is_missing(place: Place, route: Route) -> None:
    names = {
        "response_id": "resp_x", "conversation_id": "conv_x", "item_id": "msg_x",
        "webhook_endpoint_id": "we_x", "event_id": "evt_x",
        "prompt_id": "pmpt_x",
    }  # fmt: skip
    assert refusal(ask(place, route, place.keys["admin"], names)).status == TABLE[route].foreign


ELSEWHERE = [
    ("GET", "/v1"), ("GET", "/v1/"), ("GET", "/v1/nothing"), ("POST", "/v1/responses/x/y/z"),
    ("PUT", "/v1/responses"), ("PATCH", CONVERSATIONS), ("OPTIONS", "/v1/responses"), ("HEAD", "/v1/models"),
]  # fmt: skip


@pytest.mark.parametrize("route", ELSEWHERE, ids=" ".join)
def test_whether_a_path_exists_is_not_told_without_a_key(place: Place, route: Route) -> None:
    for key in (None, BAD["bad"]):
        assert ask(place, route, key).status_code == 401
    assert ask(place, route, place.keys["read"]).status_code in {404, 405}


@pytest.mark.parametrize("route", sorted(OPEN), ids=" ".join)
def test_what_is_open_needs_no_key(place: Place, route: Route) -> None:
    for key in (None, BAD["bad"]):
        assert ask(place, route, key).status_code == 200


def test_paths_beside_the_guarded_ones_are_none() -> None:
    assert not is_guarded("/v10/responses")
