"""Whatever single value of a recorded stream is wrong, it ends well or as the upstream's failure."""

from collections.abc import Callable, Iterator, Sequence
from itertools import cycle
from typing import Any

import orjson
import pytest

from app.domain.response import Status
from app.errors import UpstreamError
from app.generation.composer import Composer
from app.providers.chat_stream import ChatFold
from app.providers.intake import Intake
from app.providers.responses_events import ResponsesFold
from app.providers.upstream_errors import UpstreamErrors
from tests.builders import a_draft
from tests.providers.subjects import BY_NAME

ERRORS = UpstreamErrors("tested")
WRONG: Sequence[Any] = (
    5, -1, 1.5, "x", "a\0", [], {}, [None], [5], [[]], [{}], {"a": 1}, None, True, 2**64 - 1, "message", "error",
)  # fmt: skip


def recorded_events(name: str, case: str) -> list[Any]:
    payloads = (
        line[5:] for line in BY_NAME[name].answer(case).body.split(b"\n") if line.startswith(b"data:")
    )
    return [orjson.loads(payload) for payload in payloads if payload.strip() != b"[DONE]"]


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value inside another."""
    inner: Any = (
        value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else ())
    )
    for key, each in inner:
        yield (*at, key)
        yield from places(each, (*at, key))


def replaced(value: Any, at: tuple[Any, ...], new: Any) -> Any:
    if not at:
        return new
    changed = value.copy()
    changed[at[0]] = replaced(value[at[0]], at[1:], new)
    return changed


def compose(feed: Callable[[Any], Any], events: Sequence[Any], end: Callable[[Any], Any] | None) -> None:
    """One answer from the upstream's words to the finished response; no other error may leave it."""
    composer, intake = Composer(a_draft(), keeps_shape=True), Intake(ERRORS)
    try:
        for event in events:
            for delta in intake.take(feed, event):
                composer.feed(delta)
        for delta in intake.take(end, None) if end else ():
            composer.feed(delta)
    except UpstreamError as error:
        composer.close(Status.FAILED, error={"code": "server_error", "message": error.message})
    else:
        composer.close(None if composer.is_ended else Status.FAILED)
    response = orjson.loads(composer.terminal().data)["response"]
    assert isinstance(response["model"], str)
    assert all(isinstance(item["type"], str) for item in response["output"])
    assert composer.gated is not None


@pytest.mark.parametrize("case", ["text", "parallel_tool_calls", "reasoning"])
def test_a_wrong_value_in_an_event_crashes_nothing(case: str) -> None:
    events, wrong = recorded_events("openai_responses", case), cycle(WRONG)
    for number, event in enumerate(events):
        for at in places(event):
            changed = [*events[:number], replaced(event, at, next(wrong)), *events[number + 1 :]]
            compose(ResponsesFold(ERRORS).feed, changed, None)


@pytest.mark.parametrize("case", ["text", "parallel_tool_calls", "reasoning"])
def test_a_wrong_value_in_a_chunk_crashes_nothing(case: str) -> None:
    events, wrong = recorded_events("openrouter_chat", case), cycle(WRONG)
    for number, event in enumerate(events):
        for at in places(event):
            fold = ChatFold(ERRORS)
            changed = [*events[:number], replaced(event, at, next(wrong)), *events[number + 1 :]]
            compose(fold.feed, changed, lambda _, fold=fold: fold.end(is_done=True))
