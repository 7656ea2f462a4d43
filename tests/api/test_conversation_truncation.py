"""`truncation` in a long conversation with the offline model, whose window a configuration makes small."""

from collections.abc import Generator
from typing import Any

import httpx2
import orjson
import pytest

from tests.api.asking import CREATE, refusal, text
from tests.api.conftest import client_of
from tests.api.conversing import add, begin, items_of
from tests.api.running import attempt, is_free
from tests.live import LiveServer
from tests.waiting import wait_until
from tests.workers.processes import LiveBroker, LiveWorker

UPSTREAMS = orjson.dumps([
    {"name": "small", "protocol": "offline", "models": ["small"], "context_window_tokens": {"small": 400}},
    {"name": "large", "protocol": "offline", "models": ["large"], "context_window_tokens": 100_000},
]).decode()  # fmt: skip
in_both_ways = pytest.mark.parametrize("is_background", [False, True], ids=["foreground", "background"])


@pytest.fixture(scope="module")
def api(quiet_database_url: str, broker: LiveBroker) -> Generator[httpx2.Client]:
    environment = {"HOLDFAST_UPSTREAMS": UPSTREAMS, "HOLDFAST_BROKER_URL": broker.url}
    with (
        LiveServer(quiet_database_url, environment=environment) as live,
        LiveWorker(quiet_database_url, broker.url, upstreams=UPSTREAMS),
        client_of(live) as client,
    ):
        yield client


@pytest.fixture
def name(api: httpx2.Client) -> str:
    """Ten questions with their answers: about 1,000 tokens."""
    name = begin(api)
    for number in range(10):
        answer = {"role": "assistant", "content": "x" * 150}
        add(api, name, f"question {number}", answer)
    return name


def ended(api: httpx2.Client, answer: httpx2.Response) -> dict[str, Any]:
    """A response that has completed, in whatever way it was asked for."""
    assert answer.status_code == 200, answer.text
    path = f"{CREATE}/{answer.json()['id']}"
    wait_until(lambda: api.get(path).json()["status"] not in {"queued", "in_progress"})
    return api.get(path).json()


@in_both_ways
def test_auto_leaves_the_oldest_turns_out(api: httpx2.Client, name: str, *, is_background: bool) -> None:
    response = ended(
        api, attempt(api, name, "new", model="small", truncation="auto", background=is_background)
    )
    assert text(response) == (
        'I was given 5 items; the first user message was "question 8", the last was "new".'
    )
    assert (response["truncation"], response["status"]) == ("auto", "completed")
    items = items_of(api, name)
    assert len(items) == 22
    assert items[-1:] == response["output"]


@in_both_ways
def test_what_fits_is_left_whole(api: httpx2.Client, name: str, *, is_background: bool) -> None:
    for truncation in ("auto", "disabled"):
        answer = attempt(api, name, "new", model="large", truncation=truncation, background=is_background)
        assert 'the first user message was "question 0"' in text(ended(api, answer))


@in_both_ways
@pytest.mark.parametrize("params", [{}, {"truncation": "disabled"}, {"truncation": None}])
def test_disabled_refuses_what_is_too_long(
    api: httpx2.Client, name: str, params: dict[str, Any], *, is_background: bool
) -> None:
    told = refusal(attempt(api, name, "new", model="small", background=is_background, **params))
    assert (told.status, told.code, told.param) == (400, "context_length_exceeded", "input")
    assert is_free(api, name)
