"""Conversations as tests make and read them."""

from collections.abc import Iterator
from typing import Any

import asyncpg
import httpx2

from app import ids

CONVERSATIONS = "/v1/conversations"
NOBODY = "conv_" + "0" * 32
"""A well-formed id of no conversation."""
NO_ITEM = "msg_" + "0" * 36


def begin(api: httpx2.Client, *texts: str, **params: Any) -> str:
    """A new conversation in which a user has said this; its id."""
    answer = api.post(CONVERSATIONS, json={"items": [said(text) for text in texts], **params})
    assert answer.status_code == 200, answer.text
    return answer.json()["id"]


def said(text: str, **more: Any) -> dict[str, Any]:
    return {"role": "user", "content": text, **more}


def called(call_id: str = "call_1") -> dict[str, Any]:
    return {"type": "function_call", "call_id": call_id, "name": "f", "arguments": "{}"}


def gave(call_id: str = "call_1", **more: Any) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": "1", **more}


def path_of(name: str, *more: str) -> str:
    """The path of its items, or of one of them."""
    return "/".join((CONVERSATIONS, name, "items", *more))


def add(api: httpx2.Client, name: str, *items: Any) -> list[dict[str, Any]]:
    """Append texts, or items, as one request; what was made of them."""
    put = [said(item) if isinstance(item, str) else item for item in items]
    answer = api.post(path_of(name), json={"items": put})
    assert answer.status_code == 200, answer.text
    return answer.json()["data"]


def remove(api: httpx2.Client, name: str, item: dict[str, Any]) -> None:
    answer = api.delete(path_of(name, item["id"]))
    assert answer.status_code == 200, answer.text


def fork(api: httpx2.Client, name: str, at: dict[str, Any] | None = None) -> str:
    """The id of a fork, up to an item or of all of them."""
    answer = api.post(f"{CONVERSATIONS}/{name}/fork", json={"item_id": at["id"]} if at else {})
    assert answer.status_code == 200, answer.text
    return answer.json()["id"]


def pages(api: httpx2.Client, name: str, **query: Any) -> Iterator[list[dict[str, Any]]]:
    """One page after the other, each asked for when it is wanted."""
    while True:
        answer = api.get(path_of(name), params=query)
        assert answer.status_code == 200, answer.text
        page = answer.json()
        items = page["data"]
        ends = (items[0]["id"], items[-1]["id"]) if items else (None, None)
        assert (page["object"], page["first_id"], page["last_id"]) == ("list", *ends)
        yield items
        if not page["has_more"]:
            return
        query["after"] = page["last_id"]


def items_of(api: httpx2.Client, name: str, **query: Any) -> list[dict[str, Any]]:
    """All items, oldest first unless said otherwise; read in pages."""
    return [item for page in pages(api, name, **{"order": "asc", **query}) for item in page]


def texts(items: list[dict[str, Any]]) -> list[str]:
    """What messages say, and what else there is by its type."""
    return [item["content"][0]["text"] if item["type"] == "message" else item["type"] for item in items]


def texts_of(api: httpx2.Client, name: str) -> list[str]:
    """What is in a conversation, oldest first."""
    return texts(items_of(api, name))


async def hold(database_url: str, name: str, *, seconds: int) -> None:
    """Let a response that nobody knows run in a conversation, with so much left of its lease."""
    command = "update conversations set running_id = $1, lease_until = now() + make_interval(secs => $2) where id = $3"
    await _execute(database_url, command, ids.new_uuid(), seconds, ids.parse_conversation_id(name))


async def give_away(database_url: str, name: str, tenant_id: int) -> None:
    """Make a conversation, with all that is in it, another tenant's."""
    key = ids.parse_conversation_id(name)
    await _execute(database_url, "update conversations set tenant_id = $1 where id = $2", tenant_id, key)
    named = "turn_id in (select id from responses where chain_id = $2)"
    await _execute(database_url, f"update item_aliases set tenant_id = $1 where {named}", tenant_id, key)
    await _execute(database_url, "update responses set tenant_id = $1 where chain_id = $2", tenant_id, key)


async def _execute(database_url: str, command: str, *args: object) -> None:
    connection = await asyncpg.connect(database_url)
    try:
        done: str = await connection.execute(command, *args)
        assert done.startswith("UPDATE")
        assert done != "UPDATE 0"
    finally:
        await connection.close()
