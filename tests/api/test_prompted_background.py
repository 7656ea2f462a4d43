"""A prompt in the background: the worker is told all that the request was told, and needs no template."""

from collections.abc import Generator
from typing import Any

import httpx2
import pytest

from tests.api.asking import CREATE, frames, text
from tests.api.conftest import client_of
from tests.live import LiveServer
from tests.prompting import PROMPTS, keep, message, user
from tests.waiting import wait_until
from tests.workers.processes import LiveBroker, LiveWorker


@pytest.fixture(scope="module")
def live(quiet_database_url: str, broker: LiveBroker) -> Generator[httpx2.Client]:
    environment = {"HOLDFAST_BROKER_URL": broker.url}
    with LiveServer(quiet_database_url, environment=environment) as server, client_of(server) as client:
        yield client


def queued(api: httpx2.Client, **params: Any) -> tuple[str, dict[str, Any]]:
    """A queued response, whose prompt is gone by now."""
    name = keep(api, {"model": "offline", "instructions": "Be {{how}}.", "messages": [user("one")]})["id"]
    prompt = {"id": name, "variables": {"how": "brief"}}
    answer = api.post(CREATE, json={"input": "two", "background": True, "prompt": prompt, **params})
    assert answer.status_code == 200, answer.text
    assert api.delete(f"{PROMPTS}/{name}").status_code == 200
    return name, answer.json()


def test_a_worker_says_what_the_foreground_would(
    live: httpx2.Client, quiet_database_url: str, broker: LiveBroker
) -> None:
    name, made = queued(live)
    assert made["status"] == "queued"
    path = f"{CREATE}/{made['id']}"
    with LiveWorker(quiet_database_url, broker.url, reap_interval_seconds="0.2"):
        wait_until(lambda: live.get(path).json()["status"] == "completed")
    ended = live.get(path).json()
    assert text(ended) == 'I was given 3 items; the first user message was "one", the last was "two".'
    assert ended["prompt"] == made["prompt"] == {"id": name, "variables": {"how": "brief"}, "version": "1"}
    said = [message("developer", "Be brief."), message("user", "one")]
    assert ended["instructions"] == made["instructions"] == said
    child = live.post(CREATE, json={"model": "offline", "input": "x", "previous_response_id": made["id"]})
    assert text(child.json()).startswith('I was given 3 items; the first user message was "two"')


def test_a_stream_of_it_too(live: httpx2.Client, quiet_database_url: str, broker: LiveBroker) -> None:
    name = keep(live, {"model": "offline", "messages": [user("one")]})["id"]
    body = {"input": "two", "background": True, "stream": True, "prompt": {"id": name}}
    with LiveWorker(quiet_database_url, broker.url, reap_interval_seconds="0.2"):
        events = frames(live.post(CREATE, json=body).content)
    ended = events[-1].data["response"]
    follow = {"stream": "true", "starting_after": 1}
    theirs = live.get(f"{CREATE}/{ended['id']}", params=follow, headers={"Holdfast-Dialect": "openrouter"})
    last = frames(theirs.content)[-1].data["response"]
    assert last.pop("output_text") == text(ended)
    assert last["usage"].pop("cost", 0) is None
    assert last == ended
    assert ended["instructions"] == events[0].data["response"]["instructions"] == [message("user", "one")]
    assert live.get(f"{CREATE}/{ended['id']}").json() == ended
