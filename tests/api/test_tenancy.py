"""Law L7: another tenant's id cannot be told from one that is missing."""

from collections.abc import Callable
from typing import Any

import asyncpg
import httpx2
import pytest

from app.domain.tenancy import Caller
from app.main import create_app
from app.settings import Settings
from tests.api.asking import CREATE, MISSING, create

ROUTES = [
    (method.upper(), path)
    for path, operations in create_app(Settings()).openapi()["paths"].items()
    for method in operations
    if "{response_id}" in path
]
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


@pytest.mark.parametrize("body", BODIES, ids=["parent", "reference"])
def test_no_create_tells_them_apart(
    api: httpx2.Client, foreign: dict[str, Any], body: Callable[[dict[str, Any]], dict[str, Any]]
) -> None:
    missing: dict[str, Any] = {"id": MISSING, "output": [{"id": f"msg_{'0' * 36}"}]}
    answers = {
        told(
            api.post(CREATE, json={"model": "offline", **body(response)}),
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
