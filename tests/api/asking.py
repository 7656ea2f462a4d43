"""How tests ask the live server, and how they read what it says."""

from dataclasses import dataclass
from typing import Any

import httpx2
import orjson

CREATE = "/v1/responses"
MISSING = "resp_" + "0" * 32
"""A well-formed id of no response."""


@dataclass(frozen=True, slots=True)
class Refusal:
    status: int
    code: str | None
    param: str | None
    message: str
    type: str


@dataclass(frozen=True, slots=True)
class Frame:
    """One event as it came over the wire."""

    event: str
    data: dict[str, Any]


def create(api: httpx2.Client, given: Any = "hi", **params: Any) -> dict[str, Any]:
    """Create a response and wait for it."""
    answer = api.post(CREATE, json={"model": "offline", "input": given, **params})
    assert answer.status_code == 200, answer.text
    return answer.json()


def stream(api: httpx2.Client, given: Any = "hi", **params: Any) -> bytes:
    """Create a response and take the whole stream, as it was sent."""
    answer = api.post(CREATE, json={"model": "offline", "input": given, "stream": True, **params})
    assert answer.status_code == 200, answer.text
    return answer.content


def text(response: dict[str, Any]) -> str:
    """What the model said."""
    return "".join(
        part["text"] for item in response["output"] if item["type"] == "message" for part in item["content"]
    )


def refusal(answer: httpx2.Response) -> Refusal:
    """An error in OpenAI's envelope, with nothing more in it and nothing less (law L10)."""
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"message", "type", "param", "code"}
    return Refusal(status=answer.status_code, **body["error"])


def invalid(
    message: str, *, param: str | None, code: str | None = "invalid_value", status: int = 400
) -> Refusal:
    """What a client is told that made a mistake."""
    return Refusal(status, code, param, message, "invalid_request_error")


def frames(raw: bytes) -> list[Frame]:
    """The events of a stream; comments and `[DONE]` are left out."""
    blocks = [block for block in raw.split(b"\n\n") if block.startswith(b"event:")]
    return [_frame(block) for block in blocks]


def _frame(block: bytes) -> Frame:
    event, data = block.split(b"\n")
    return Frame(event.removeprefix(b"event: ").decode(), orjson.loads(data.removeprefix(b"data: ")))
