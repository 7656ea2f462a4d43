"""Background responses while workers and the broker are killed at random; counts at the end.

    python -m tests.bench.chaos [--jobs 1000] [--seed 1]

Real processes and signals on an embedded Postgres and Valkey of its own, an upstream of 0.2 to 2 s over
a socket. It ends with exit code 1 if a promise of decision 14 was broken.
"""

import argparse
import asyncio
import collections
import contextlib
import json
import random
import signal
import sys
import tempfile
import time
import tomllib
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
from aiohttp import web

from app.embedded.postgres import EmbeddedPostgres
from app.store import migrate
from tests import grammar
from tests.live import LiveServer
from tests.workers.processes import LiveBroker, LiveWorker

UPSTREAM = """
[[upstreams]]
name = "behind"
protocol = "responses"
base_url = "{url}"
max_retries = 0
"""
SETTINGS = {
    "lease_seconds": "3",
    "reap_interval_seconds": "1",
    "queued_too_long_seconds": "2",
    "max_attempts": "50",
}
WORDS = 10


class Model:
    """An upstream that notes every call: which job, and that it came."""

    def __init__(self, rng: random.Random) -> None:
        self.calls = collections.Counter[str]()
        self._rng = rng

    async def respond(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        job = body["input"][-1]["content"][0]["text"]
        self.calls[job] += 1
        pause = self._rng.uniform(0.2, 2.0) / WORDS
        if not body.get("stream"):
            await asyncio.sleep(pause * WORDS)
            return web.json_response(_response(job, "completed"))
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        with contextlib.suppress(ConnectionResetError):
            async for event in _events(job, pause):
                await response.write(b"data: " + json.dumps(event).encode() + b"\n\n")
        return response


def _message(text: str) -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": []}
    return {"id": "msg_up", "type": "message", "role": "assistant", "status": "completed", "content": [part]}


def _response(job: str, status: str) -> dict[str, Any]:
    usage = {"input_tokens": 1, "output_tokens": WORDS, "total_tokens": WORDS + 1}
    output = [_message(_text(job))] if status == "completed" else []
    return {
        "id": f"resp_{job}",
        "object": "response",
        "status": status,
        "model": "m",
        "output": output,
        "usage": usage,
    }


def _text(job: str) -> str:
    return " ".join([job] * WORDS)


async def _events(job: str, pause: float) -> AsyncGenerator[dict[str, Any]]:
    yield {"type": "response.created", "response": _response(job, "in_progress")}
    await asyncio.sleep(pause)
    yield {"type": "response.output_item.added", "output_index": 0, "item": {**_message(""), "content": []}}
    for place in range(WORDS):
        delta = job if place == 0 else f" {job}"
        yield {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "delta": delta}
        await asyncio.sleep(pause)
    yield {"type": "response.output_item.done", "output_index": 0, "item": _message(_text(job))}
    yield {"type": "response.completed", "response": _response(job, "completed")}


async def _killer(
    rng: random.Random, workers: list[LiveWorker], broker: LiveBroker, kills: collections.Counter[str]
) -> None:
    """Every few seconds something dies, and comes back."""
    while True:
        await asyncio.sleep(rng.uniform(2, 4))
        what = rng.choice(["worker", "worker", "worker, in peace", "broker"])
        kills[what] += 1
        if what == "broker":
            await asyncio.to_thread(broker.kill)
            await asyncio.to_thread(broker.start)
            continue
        worker = rng.choice(workers)
        number = signal.SIGKILL if what == "worker" else signal.SIGTERM
        with contextlib.suppress(Exception):
            await asyncio.to_thread(worker.stop, number, seconds=40)
        await asyncio.to_thread(worker.start)


async def _create(session: aiohttp.ClientSession, base: str, jobs: int) -> dict[str, str]:
    """Response ids by job; every second one is streamed, and left at once."""
    ids: dict[str, str] = {}
    for number in range(jobs):
        job = f"job{number}"
        body = {"model": "m", "input": job, "background": True, "stream": number % 2 == 1}
        async with session.post(f"{base}/responses", json=body) as answer:
            answer.raise_for_status()
            if body["stream"]:
                await answer.content.readline()
                created = json.loads((await answer.content.readline()).removeprefix(b"data: "))["response"]
            else:
                created = await answer.json()
            ids[job] = created["id"]
    return ids


async def _unfinished(url: str) -> int:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval("select count(*) from responses where status < 2")
    finally:
        await connection.close()


async def _judge(
    session: aiohttp.ClientSession, base: str, ids: dict[str, str], calls: collections.Counter[str]
) -> tuple[collections.Counter[str], list[str]]:
    """What became of each response, and every promise that was broken."""
    found, broken = collections.Counter[str](), list[str]()
    for number, (job, response_id) in enumerate(ids.items()):
        async with session.get(f"{base}/responses/{response_id}") as answer:
            response = await answer.json()
        async with session.get(f"{base}/responses/{response_id}/attempts") as answer:
            attempts = (await answer.json())["data"]
        found[response["status"]] += 1
        found[f"{len(attempts)} attempts"] += 1
        if response["status"] not in {"completed", "failed"}:
            broken.append(f"{job}: {response['status']}")
        if calls[job] > len(attempts):
            broken.append(f"{job}: {calls[job]} calls of the upstream, {len(attempts)} attempts")
        if any(attempt["ended_at"] is None for attempt in attempts):
            broken.append(f"{job}: an attempt without an end")
        if response["status"] == "completed" and response["output"][0]["content"][0]["text"] != _text(job):
            broken.append(f"{job}: other output")
        if number % 2 == 1:
            async with session.get(f"{base}/responses/{response_id}?stream=true") as answer:
                events = [
                    json.loads(line[6:]) async for line in answer.content if line.startswith(b"data: {")
                ]
            try:
                grammar.check(events)
            except AssertionError as error:
                broken.append(f"{job}: stream {error}")
    return found, broken


async def chaos(jobs: int, seed: int) -> int:
    rng = random.Random(seed)
    model, kills = Model(rng), collections.Counter[str]()
    app = web.Application(client_max_size=1 << 24)
    app.router.add_post("/v1/responses", model.respond)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    config = UPSTREAM.format(url=f"http://127.0.0.1:{runner.addresses[0][1]}/v1")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        await asyncio.to_thread(folder.chmod, 0o711)
        url = stack.enter_context(EmbeddedPostgres(folder / "state")).url
        await asyncio.to_thread(migrate.upgrade, url)
        plain = url.replace("+asyncpg", "")
        broker = stack.enter_context(LiveBroker(folder / "state"))
        settings = SETTINGS | {"upstreams": _upstreams_json(config), "max_queued": str(jobs)}
        environment = {
            "HOLDFAST_BROKER_URL": broker.url,
            **{f"HOLDFAST_{k.upper()}": v for k, v in SETTINGS.items()},
            "HOLDFAST_MAX_QUEUED": str(jobs),
        }
        api = stack.enter_context(LiveServer(plain, config, environment=environment))
        workers = [stack.enter_context(LiveWorker(plain, broker.url, **settings)) for _ in range(2)]
        async with aiohttp.ClientSession() as session:
            began = time.monotonic()
            killing = asyncio.ensure_future(_killer(rng, workers, broker, kills))
            ids = await _create(session, api.base_url, jobs)
            while await _unfinished(plain) and time.monotonic() - began < 900:  # noqa: ASYNC110 - other processes
                await asyncio.sleep(0.5)
            killing.cancel()
            took = time.monotonic() - began
            found, broken = await _judge(session, api.base_url, ids, model.calls)
    await runner.cleanup()
    print(f"{jobs} jobs in {took:.0f} s; killed: {dict(kills)}; upstream calls: {model.calls.total()}")
    print(f"found: {dict(sorted(found.items()))}")
    print(f"broken promises: {len(broken)}", *broken[:20], sep="\n  ")
    return 1 if broken else 0


def _upstreams_json(config: str) -> str:

    return json.dumps(tomllib.loads(config)["upstreams"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    known = parser.parse_args()
    sys.exit(asyncio.run(chaos(known.jobs, known.seed)))


if __name__ == "__main__":
    main()
