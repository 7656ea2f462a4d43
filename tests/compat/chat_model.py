"""A Chat Completions server on the loopback interface that says what it was given, as the offline model does."""

import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

from aiohttp import web

from tests.in_a_thread import served


def answer(messages: list[dict[str, Any]]) -> str:
    said = [_text(message["content"]) for message in messages if message["role"] == "user"]
    items = "1 item" if len(messages) == 1 else f"{len(messages)} items"
    return f'I was given {items}; the first user message was "{said[0]}", the last was "{said[-1]}".'


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def chunks(text: str) -> Generator[dict[str, Any]]:
    words = text.split(" ")
    for place, word in enumerate(words):
        yield {"choices": [{"index": 0, "delta": {"content": word if place == 0 else f" {word}"}}]}
    yield {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}


async def _complete(costs: Mapping[str, Any], request: web.Request) -> web.StreamResponse:
    body = await request.json()
    text = answer(body["messages"])
    usage = {"prompt_tokens": len(body["messages"]), "completion_tokens": 7, "total_tokens": 0}
    if not body.get("stream"):
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage |= costs
        return web.json_response({"model": "told-1", "choices": [choice], "usage": usage})
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    for chunk in chunks(text):
        await response.write(b"data: " + json.dumps({"model": "told-1", **chunk}).encode() + b"\n\n")
    if costs:
        last = {"model": "told-1", "choices": [], "usage": {**usage, **costs}}
        await response.write(b"data: " + json.dumps(last).encode() + b"\n\n")
    await response.write(b"data: [DONE]\n\n")
    return response


@contextmanager
def chat_model(**costs: Any) -> Generator[str]:
    """The base URL of the running server, whose usage says these costs as OpenRouter's does."""
    app = web.Application()
    app.router.add_post("/v1/chat/completions", partial(_complete, costs))
    with served(app) as url:
        yield f"{url}/v1"
