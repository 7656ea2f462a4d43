"""What is asked for in the scenarios, and what a right answer is."""

from typing import Any
from uuid import UUID

import orjson

from app import ids
from tests.bench.answers import Script, text
from tests.bench.http_load import Check, Request

CREATE = "/v1/responses"
NOTHING = "/v1/nothing"
"""The no-op route."""
INPUT_CHARACTERS = 400
"""As other servers were measured with before."""


def body(script: Script, *, characters: int = INPUT_CHARACTERS, **parameters: Any) -> bytes:
    """Of a create: one message. What a server reads before the input stands before it."""
    part = {"type": "input_text", "text": text(characters, seed=1)}
    item = {"type": "message", "role": "user", "content": [part]}
    return orjson.dumps({"model": script.model, **parameters, "input": [item]})


def create(script: Script, *, characters: int = INPUT_CHARACTERS, **parameters: Any) -> Request:
    return "POST", CREATE, body(script, characters=characters, **parameters)


def read(response_id: UUID) -> Request:
    return "GET", f"{CREATE}/{ids.response_id(response_id)}", b""


def is_completed(status: int, body: bytes) -> bool:
    """A whole answer, with something in it."""
    if status != 200:
        return False
    answer = orjson.loads(body)
    return answer["status"] == "completed" and bool(answer["output"][0]["content"][0]["text"])


def is_queued(status: int, body: bytes) -> bool:
    return status == 200 and orjson.loads(body)["status"] in {"queued", "in_progress"}


def is_page(status: int, body: bytes) -> bool:
    """A full page, with more behind it."""
    if status != 200:
        return False
    page = orjson.loads(body)
    return len(page["data"]) == 20 and page["has_more"]


def is_streamed(script: Script) -> Check:
    """A stream with every delta, ending as it should."""

    def check(status: int, body: bytes) -> bool:
        deltas = body.count(b"event: response.output_text.delta\n")
        return status == 200 and deltas == script.deltas and b"event: response.completed\n" in body

    return check
