"""A Chat Completions server on the loopback interface that says what it was given, as the offline model does."""

import asyncio
import json
import threading
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager
from typing import Any

from aiohttp import web


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


async def _complete(request: web.Request) -> web.StreamResponse:
    body = await request.json()
    text = answer(body["messages"])
    if not body.get("stream"):
        message = {"role": "assistant", "content": text}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        usage = {"prompt_tokens": len(body["messages"]), "completion_tokens": 7, "total_tokens": 0}
        return web.json_response({"model": "told-1", "choices": [choice], "usage": usage})
    response = web.StreamResponse(headers={"content-type": "text/event-stream"})
    await response.prepare(request)
    for chunk in chunks(text):
        await response.write(b"data: " + json.dumps({"model": "told-1", **chunk}).encode() + b"\n\n")
    await response.write(b"data: [DONE]\n\n")
    return response


@contextmanager
def chat_model() -> Generator[str]:
    """The base URL of the running server."""
    loop, bound = asyncio.new_event_loop(), threading.Event()
    url: list[str] = []

    async def serve() -> AsyncGenerator[None]:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", _complete)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        url.append(f"http://127.0.0.1:{runner.addresses[0][1]}/v1")
        bound.set()
        yield
        await runner.cleanup()

    serving = serve()

    def run() -> None:
        loop.run_until_complete(anext(serving))
        loop.run_forever()
        loop.run_until_complete(anext(serving, None))
        loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    bound.wait(10)
    try:
        yield url[0]
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
