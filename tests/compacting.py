"""Servers that compact, and what tests send to them."""

from collections.abc import Mapping
from typing import Any

import httpx2
import orjson

from tests.api.asking import create
from tests.live import LiveServer

Json = dict[str, Any]

KEY, OTHER_KEY = "A" * 43 + "=", "B" * 43 + "="
WINDOW = 4_000
AUTOMATIC: Any = [{"type": "compaction", "compact_threshold": 1_500}]
COMPACT = "/v1/responses/compact"
ORDER = {"type": "compaction_trigger"}


def settings(
    *upstreams: Mapping[str, Any], window: int | None = WINDOW, key: str | None = KEY
) -> dict[str, str]:
    """The environment of a server with the offline model and these upstreams."""
    limit = {} if window is None else {"context_window_tokens": window}
    offline = {"name": "offline", "protocol": "offline", "models": ["offline"], **limit}
    sealing = {} if key is None else {"HOLDFAST_SEAL_KEY": key}
    return {"HOLDFAST_UPSTREAMS": orjson.dumps([offline, *upstreams]).decode(), **sealing}


def wire(url: str, **more: Any) -> Json:
    """An upstream of that address as the model `wire`."""
    fixed = {"name": "wire", "protocol": "responses", "models": ["wire"], "max_retries": 0}
    return {**fixed, "base_url": url, "context_window_tokens": WINDOW, **more}


def server_of(database_url: str, *upstreams: Mapping[str, Any], **more: Any) -> LiveServer:
    return LiveServer(database_url, environment=settings(*upstreams, **more))


def compacted(api: httpx2.Client, given: Any = None, **params: Any) -> Json:
    """What the route answers."""
    answer = api.post(COMPACT, json={"model": "offline", "input": given, **params})
    assert answer.status_code == 200, answer.text
    return answer.json()


def recalled(api: httpx2.Client, words: str, given: Any = (), **params: Any) -> str:
    """What the model knows of these words behind this input."""
    question = {"role": "user", "content": f"::recall {words}"}
    response = create(api, [*given, question], **params)
    return response["output"][-1]["content"][0]["text"]


def long(text: str, tokens: int = 1_600) -> str:
    """A text that fills this much of a context."""
    return f"{text}\n" + "lorem ipsum " * (tokens * 4 // 12)
