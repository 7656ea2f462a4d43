"""Law L7: another tenant's id cannot be told from one that is missing."""

from collections.abc import Callable
from typing import Any

import asyncpg
import httpx2
import pytest

from app.domain.tenancy import Caller
from app.main import create_app
from app.settings import Settings
from tests.api import conversing
from tests.api.asking import CREATE, MISSING, create
from tests.api.conversing import CONVERSATIONS, NO_ITEM, NOBODY, begin, items_of, path_of, said, texts_of

OPERATIONS = [
    (method.upper(), path)
    for path, operations in create_app(Settings()).openapi()["paths"].items()
    for method in operations
]
ROUTES = [(method, path) for method, path in OPERATIONS if "{response_id}" in path]
OF_CONVERSATIONS = [(method, path) for method, path in OPERATIONS if "{conversation_id}" in path]
COUNT = f"{CREATE}/input_tokens"
SENT: dict[str, Any] = {"metadata": {"a": "theirs"}}
BODIES: list[Callable[[dict[str, Any]], dict[str, Any]]] = [
    lambda response: {"input": "x", "previous_response_id": response["id"]},
    lambda response: {"input": [{"type": "item_reference", "id": response["output"][0]["id"]}]},
]


@pytest.fixture
async def foreign(api: httpx2.Client, database_url: str, caller: Caller) -> dict[str, Any]:
    """A response of another tenant."""
    response = create(api)
    await give_away(database_url, response, caller)
    return response


async def give_away(database_url: str, response: dict[str, Any], to: Caller) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        command = "update responses set tenant_id = $1 where id = $2"
        assert (
            await connection.execute(command, to.tenant_id, response["id"].removeprefix("resp_"))
            == "UPDATE 1"
        )
    finally:
        await connection.close()


def told(answer: httpx2.Response, *names: str) -> tuple[int, str]:
    """What a client learns, but for the names that it gave itself."""
    text = answer.text
    for name in names:
        text = text.replace(name, "NAME")
    return answer.status_code, text


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_no_route_tells_them_apart(
    api: httpx2.Client, foreign: dict[str, Any], method: str, path: str
) -> None:
    answers = {
        told(api.request(method, path.replace("{response_id}", name)), name)
        for name in (MISSING, foreign["id"])
    }
    assert [status for status, _ in answers] == [404]


async def test_deleting_it_in_vain_leaves_it_where_it_is(
    api: httpx2.Client, foreign: dict[str, Any], database_url: str
) -> None:
    assert api.delete(f"{CREATE}/{foreign['id']}").status_code == 404
    await give_away(database_url, foreign, Caller())
    assert api.get(f"{CREATE}/{foreign['id']}").json() == foreign


@pytest.mark.parametrize("path", [CREATE, COUNT])
@pytest.mark.parametrize("body", BODIES, ids=["parent", "reference"])
def test_no_create_tells_them_apart(
    api: httpx2.Client, foreign: dict[str, Any], body: Callable[[dict[str, Any]], dict[str, Any]], path: str
) -> None:
    missing: dict[str, Any] = {"id": MISSING, "output": [{"id": f"msg_{'0' * 36}"}]}
    answers = {
        told(
            api.post(path, json={"model": "offline", **body(response)}),
            response["output"][0]["id"],
            response["id"],
        )
        for response in (missing, foreign)
    }
    assert len(answers) == 1
    assert answers.pop()[0] in {400, 404}


def test_no_list_shows_it(api: httpx2.Client, foreign: dict[str, Any]) -> None:
    assert foreign["id"] not in [row["id"] for row in api.get(CREATE).json()["data"]]


def test_as_a_cursor_it_says_nothing_but_its_time(api: httpx2.Client, foreign: dict[str, Any]) -> None:
    answer = api.get(CREATE, params={"after": foreign["id"], "order": "asc"})
    assert answer.json()["data"] == []


@pytest.fixture
async def foreign_items(api: httpx2.Client, database_url: str, caller: Caller) -> tuple[str, list[str]]:
    """A conversation of another tenant, and the ids of its items: of ours and of its client's."""
    name = begin(api, "secret", metadata={"secret": caller_key(caller)})
    conversing.add(api, name, said("more", id=f"msg_{caller.tenant_id}"))
    found = [item["id"] for item in items_of(api, name)]
    await conversing.give_away(database_url, name, caller.tenant_id)
    return name, found


def caller_key(caller: Caller) -> str:
    return f"of {caller.tenant_id}"


@pytest.mark.parametrize(("method", "path"), OF_CONVERSATIONS)
def test_no_route_tells_conversations_apart(
    api: httpx2.Client, foreign_items: tuple[str, list[str]], method: str, path: str
) -> None:
    name, items = foreign_items
    body = {"items": [said("x")]} if path.endswith("/items") else SENT
    sent = body if method == "POST" and not path.endswith("/fork") else None
    answers = {
        told(
            api.request(
                method, path.replace("{conversation_id}", each).replace("{item_id}", item), json=sent
            ),
            each,
        )
        for each, item in ((NOBODY, NO_ITEM), *((name, item) for item in items))
    }
    assert [status for status, _ in answers] == [404]


async def test_their_conversation_is_as_it_was(
    api: httpx2.Client, foreign_items: tuple[str, list[str]], database_url: str
) -> None:
    name, items = foreign_items
    path = f"{CONVERSATIONS}/{name}"
    assert api.post(path, json=SENT).status_code == 404
    assert api.delete(path).status_code == 404
    assert api.delete(path_of(name, items[0])).status_code == 404
    assert api.post(path_of(name), json={"items": [said("x")]}).status_code == 404
    await conversing.give_away(database_url, name, Caller().tenant_id)
    assert texts_of(api, name) == ["secret", "more"]
    assert api.get(path).json()["metadata"].keys() == {"secret"}


def test_their_items_are_in_no_conversation_of_ours(
    api: httpx2.Client, foreign_items: tuple[str, list[str]]
) -> None:
    name = begin(api, "ours")
    for look in (
        lambda item: api.get(path_of(name, item)),
        lambda item: api.delete(path_of(name, item)),
        lambda item: api.get(path_of(name), params={"after": item}),
        lambda item: api.post(f"{CONVERSATIONS}/{name}/fork", json={"item_id": item}),
    ):
        answers = {told(look(item), item) for item in (NO_ITEM, *foreign_items[1])}
        assert len(answers) == 1
        assert answers.pop()[0] in {400, 404}
    assert texts_of(api, name) == ["ours"]


def test_their_ids_are_free_for_us(api: httpx2.Client, foreign_items: tuple[str, list[str]]) -> None:
    name = begin(api)
    conversing.add(api, name, *(said("ours", id=item) for item in foreign_items[1]))
    assert [item["id"] for item in items_of(api, name)] == foreign_items[1]


@pytest.mark.parametrize("path", [CREATE, COUNT])
def test_no_create_tells_conversations_apart(
    api: httpx2.Client, foreign_items: tuple[str, list[str]], path: str
) -> None:
    bodies = [{"input": "x", "conversation": name} for name in (NOBODY, foreign_items[0])]
    answers = {
        told(api.post(path, json={"model": "offline", **body}), body["conversation"]) for body in bodies
    }
    assert [status for status, _ in answers] == [404]


def test_no_list_of_conversations_shows_it(
    api: httpx2.Client, foreign_items: tuple[str, list[str]], caller: Caller
) -> None:
    name = foreign_items[0]
    assert name not in [row["id"] for row in api.get(CONVERSATIONS).json()["data"]]
    wanted = {"metadata[secret]": caller_key(caller)}
    assert api.get(CONVERSATIONS, params=wanted).json()["data"] == []
    assert api.get(CONVERSATIONS, params={"after": name, "order": "asc"}).json()["data"] == []
