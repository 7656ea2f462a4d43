"""An upstream on a socket that answers as the offline model does, and notes how much it was sent."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import orjson
from aiohttp import web

from app import ids
from app.domain.context import Context
from app.domain.echo import echo
from app.domain.gates import Gated
from app.domain.items import InputItems, join
from app.domain.response import Draft
from app.generation.composer import Composer
from app.providers.offline import Offline
from tests.in_a_thread import served

Json = dict[str, Any]


class Recalling:
    """What it was asked, and how many bytes that took."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[Json] = []
        self.sizes: list[int] = []

    async def answer(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        body = orjson.loads(raw)
        self.requests.append(body)
        self.sizes.append(len(raw))
        composer = await self._said(body)
        return web.json_response(orjson.loads(composer.json))

    async def chat(self, request: web.Request) -> web.StreamResponse:
        """The same in Chat Completions' words."""
        raw = await request.read()
        body = orjson.loads(raw)
        self.requests.append(body)
        self.sizes.append(len(raw))
        system, items = _items_of(body["messages"])
        composer = await self._said({"model": body["model"], "input": items, "instructions": system})
        text = "".join(part["text"] for part in composer.output[0]["content"])
        message = {"role": "assistant", "content": text}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return web.json_response({"model": body["model"], "choices": [choice], "usage": usage})

    async def _said(self, body: Json) -> Composer:
        nothing = InputItems([], b"", Gated.NONE)
        draft = Draft(ids.new_uuid(), body["model"], {}, nothing, echo({}, model=body["model"]))
        composer = Composer(draft, is_heard=False)
        context = Context(body["model"], (join(body["input"]),), body, is_streamed=False)
        async for delta in Offline().stream(context):
            composer.feed(delta)
        composer.close()
        return composer


def _items_of(messages: list[Json]) -> tuple[str, list[Json]]:
    """The system's words, and all other messages as items."""
    system, items = "", list[Json]()
    for message in messages:
        if message["role"] == "system":
            system = message["content"]
        elif message["role"] == "tool":
            output = {"call_id": message["tool_call_id"], "output": message["content"]}
            items.append({"type": "function_call_output", **output})
        else:
            if message.get("content"):
                items.append({"type": "message", "role": message["role"], "content": message["content"]})
            items += [
                {"type": "function_call", "call_id": call["id"], **call["function"]}
                for call in message.get("tool_calls", ())
            ]
    return system, items


@contextmanager
def recalling() -> Generator[Recalling]:
    """It runs in a thread of its own, until the block ends."""
    upstream, app = Recalling(), web.Application(client_max_size=2**30)
    app.router.add_post("/v1/responses", upstream.answer)
    app.router.add_post("/v1/chat/completions", upstream.chat)
    with served(app) as url:
        upstream.url = f"{url}/v1"
        yield upstream
