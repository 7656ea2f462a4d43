"""Requests that are sent again with the same key."""

from collections.abc import Mapping
from typing import Any

import httpx2

from app import ids
from tests.api.asking import CREATE, frames, invalid

Json = dict[str, Any]


LEASE_SECONDS = 1.0


REPLAYED = "idempotent-replayed"


REUSED = invalid(
    "This Idempotency-Key was already used with another route or body. Use a new key for a new request.",
    code="idempotency_key_reused",
    param="Idempotency-Key",
)


def a_key() -> dict[str, str]:
    """Headers with a key that nobody has used."""
    return {"Idempotency-Key": ids.request_id()}


def ask(api: httpx2.Client, key: Mapping[str, str], given: Any = "hi", **params: Any) -> httpx2.Response:
    return api.post(CREATE, json={"model": "offline", "input": given, **params}, headers=dict(key))


def same(one: httpx2.Response, other: httpx2.Response) -> None:
    """The second repeats the first, and says so."""
    assert (other.status_code, other.content) == (one.status_code, one.content)
    assert REPLAYED not in one.headers
    assert other.headers[REPLAYED] == "true"


def events(answer: httpx2.Response) -> list[Json]:
    return [frame.data for frame in frames(answer.content)]


def count(api: httpx2.Client, tag: str) -> int:
    rows = api.get(CREATE, params={"limit": 100}).json()["data"]
    return sum(row["metadata"] == {"tag": tag} for row in rows)


TOOL = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {}}}


def name_in(answer: httpx2.Response) -> str:
    assert answer.status_code == 200, answer.text
    if answer.headers["content-type"].startswith("text/event-stream"):
        return events(answer)[-1]["response"]["id"]
    return answer.json()["id"]
