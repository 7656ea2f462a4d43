"""Streams that the journal has forgotten: said again from the items, with the same bytes."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from app.domain.response import Draft, Status
from app.domain.tenancy import Caller
from app.errors import UpstreamError
from app.providers.base import (
    AnnotationAdded,
    Delta,
    Finished,
    InputDelta,
    ItemFinished,
    ItemStarted,
    PartFinished,
    PartStarted,
    Progress,
    Started,
    TextDelta,
)
from app.store import responses
from app.store.db import Database
from tests import grammar
from tests.background import (
    body,
    cancel,
    enqueued,
    followed,
    forget_events,
    found,
    frames,
    generate,
    working,
)
from tests.background import said as events_of
from tests.generation.composing import CALL, CITATION, LOGPROB, MESSAGE, REASONING, rich, said
from tests.scripted import DONE, ScriptedProvider, answer, hello

pytestmark = pytest.mark.usefixtures("nothing_queued")

GONE = UpstreamError("The provider is gone.")
CODE = {"type": "code_interpreter_call", "container_id": "cntr_1", "status": "in_progress", "outputs": None}
PATCH = {"type": "apply_patch_call", "call_id": "call_p", "operation": {"type": "delete_file", "path": "a"}}
USAGE = {"input_tokens": 3, "output_tokens": 4}

STREAMS: Mapping[str, Sequence[Delta | Exception]] = {
    "text": answer("Hello", ", ", "wörld", " 🎉", "."),
    "no text": [Started(), *said(0, 0, "output_text"), DONE],
    "nothing at all": [Started(), DONE],
    "several parts": [
        Started("a-model-1"),
        ItemStarted(0, dict(MESSAGE)),
        *said(0, 0, "output_text", "One", "."),
        *said(0, 1, "output_text", "Two", "."),
        *said(0, 2, "output_text"),
        *said(0, 3, "output_text", "Three."),
        ItemFinished(0),
        DONE,
    ],
    "refusal": [
        Started(),
        ItemStarted(0, dict(MESSAGE)),
        *said(0, 0, "output_text", "Well: "),
        *said(0, 1, "refusal", "I ", "won't."),
        ItemFinished(0),
        DONE,
    ],
    "reasoning": [
        Started(),
        ItemStarted(0, REASONING | {"id": "rs_theirs", "summary": []}),
        *said(0, 0, "summary_text", "First", " this."),
        *said(0, -1, "summary_text", "Then that."),
        *said(0, 1, "reasoning_text", "Deep", " thought."),
        ItemFinished(0, REASONING | {"id": "rs_theirs", "summary": [], "encrypted_content": "x=="}),
        *hello("Hi"),
        DONE,
    ],
    "parallel calls, interleaved": [
        Started(),
        ItemStarted(0, CALL | {"arguments": ""}),
        ItemStarted(1, CALL | {"call_id": "call_2", "name": "g"}),
        InputDelta(0, '{"a'),
        InputDelta(1, '{"b":'),
        InputDelta(0, '":1}'),
        ItemStarted(2, CALL | {"call_id": "call_3"}),
        InputDelta(1, "2}"),
        ItemFinished(1),
        ItemFinished(0),
        ItemFinished(2),
        DONE,
    ],
    "a call in one piece": [Started(), ItemFinished(0, CALL | {"arguments": '{"a":1}'}), DONE],
    "custom tool": [
        Started(),
        ItemStarted(0, {"type": "custom_tool_call", "call_id": "call_1", "name": "g"}),
        InputDelta(0, "free "),
        InputDelta(0, "text"),
        ItemFinished(0),
        DONE,
    ],
    "code interpreter": [
        Started(),
        ItemStarted(0, CODE),
        Progress(0, "response.code_interpreter_call.in_progress"),
        InputDelta(0, "print("),
        InputDelta(0, "1)"),
        Progress(0, "response.code_interpreter_call.interpreting"),
        Progress(0, "response.code_interpreter_call.completed"),
        ItemFinished(0, CODE | {"status": "completed", "outputs": [{"type": "logs", "logs": "1"}]}),
        DONE,
    ],
    "code that comes at the end": [
        Started(),
        ItemStarted(0, CODE),
        Progress(0, "response.code_interpreter_call.interpreting"),
        Progress(0, "response.code_interpreter_call.completed"),
        ItemFinished(0, CODE | {"status": "completed", "code": "1", "outputs": []}),
        DONE,
    ],
    "web search": [
        Started(),
        ItemStarted(0, {"type": "web_search_call", "id": "ws_1", "status": "in_progress"}),
        Progress(0, "response.web_search_call.searching", {"odd": [1, None, "é"]}),
        ItemFinished(0, {"type": "web_search_call", "status": "completed", "action": {"type": "search"}}),
        DONE,
    ],
    "annotations": [
        Started(),
        ItemStarted(0, dict(MESSAGE)),
        PartStarted(0, 0, "output_text"),
        AnnotationAdded(0, 0, CITATION),
        TextDelta(0, 0, "Hi"),
        AnnotationAdded(0, 0, CITATION | {"url": "https://b.example"}),
        PartFinished(0, 0),
        ItemFinished(0),
        DONE,
    ],
    "parts of the final form alone": [
        Started(),
        ItemStarted(0, dict(MESSAGE)),
        ItemFinished(
            0,
            MESSAGE
            | {"content": [{"type": "output_text", "text": "Hi", "annotations": [CITATION], "logprobs": []}]},
        ),
        DONE,
    ],
    "cut in the middle of a text": [
        Started(),
        *hello("half")[:-2],
        Finished("incomplete", USAGE, reason="max_output_tokens"),
    ],
    "cut in the middle of a call": [
        Started(),
        ItemStarted(0, dict(CALL)),
        InputDelta(0, '{"a"'),
        Finished("incomplete", USAGE, reason="max_output_tokens"),
    ],
    "cut before a patch": [
        Started(),
        ItemStarted(0, PATCH),
        Finished("incomplete", USAGE, reason="content_filter"),
    ],
    "failed by the upstream": [
        Started(),
        *hello("half")[:-1],
        Finished("failed", USAGE, error={"code": "x", "message": "No."}),
    ],
    "failed in the middle": [Started("a-model-1"), *hello("half")[:3], GONE],
    "failed before the beginning": [GONE],
    "failed without output": [Started("a-model-1"), GONE],
    "decided by the upstream": [
        Started("a-model-1"),
        *hello("Hi"),
        Finished(
            "completed",
            USAGE,
            echo={
                "model": "a-model-2",
                "temperature": 0.7,
                "service_tier": "flex",
                "tool_usage": {"a": 1},
                "moderation": {"output": [], "flagged": False},
            },
        ),
    ],
    "input that nobody asked for": [
        Started(),
        ItemStarted(0, {"type": "web_search_call", "status": "in_progress"}),
        InputDelta(0, "odd"),
        ItemFinished(0, {"type": "web_search_call", "status": "completed"}),
        DONE,
    ],
    "everything": [
        Started("a-model-1", "up_1"),
        *[delta for delta in rich() if not (isinstance(delta, TextDelta) and delta.logprobs)],
    ],
}

_PADDING = re.compile(rb',"obfuscation":"[0-9a-f]*"(?=}\n\n)')


async def made(
    db: Database,
    caller: Caller,
    database_url: str,
    steps: Sequence[Any],
    *,
    pads: bool = False,
    **params: Any,
) -> tuple[Draft, bytes]:
    """A finished stream, and what its followers have read."""
    draft = await enqueued(db, caller, stream=True, **params)
    async with working(db, database_url, ScriptedProvider(steps), pads=pads) as background:
        assert await generate(background)
    return draft, await followed(db, caller, draft.id)


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("pads", [True, False])
async def test_a_forgotten_stream_is_said_again_byte_for_byte(
    db: Database, caller: Caller, database_url: str, name: str, *, pads: bool
) -> None:
    draft, before = await made(db, caller, database_url, STREAMS[name], pads=pads)
    await forget_events(database_url, draft.id)
    after = await followed(db, caller, draft.id)
    assert after == _PADDING.sub(b"", before)
    assert grammar.check(events_of(after)) == await body(db, caller, draft.id)


@pytest.mark.parametrize("name", ["everything", "failed in the middle", "decided by the upstream"])
async def test_a_resume_gives_the_missing_rest_of_it(
    db: Database, caller: Caller, database_url: str, name: str
) -> None:
    draft, whole = await made(db, caller, database_url, STREAMS[name])
    await forget_events(database_url, draft.id)
    for after in range(-1, len(frames(whole))):
        rest = b"".join(frames(whole)[after + 1 :])
        assert await followed(db, caller, draft.id, after=after) == rest
    # Whatever number a client thinks of, before the first event there is nothing.
    assert await followed(db, caller, draft.id, after=-(1 << 40)) == whole


async def test_a_request_is_shown_as_it_was_asked(db: Database, caller: Caller, database_url: str) -> None:
    """What the upstream decided is in the end, and not in the beginning."""
    params: dict[str, Any] = {
        "temperature": 0.1,
        "metadata": {"output": "[]", "model": "x"},
        "reasoning": {"effort": "low"},
        "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}}],
        "instructions": "Be brief.",
        "service_tier": "priority",
    }
    steps = STREAMS["decided by the upstream"]
    draft, before = await made(db, caller, database_url, steps, **params)
    await forget_events(database_url, draft.id)
    assert await followed(db, caller, draft.id) == before
    first, last = events_of(before)[0]["response"], events_of(before)[-1]["response"]
    assert (first["model"], last["model"]) == ("a-model", "a-model-2")
    assert (first["temperature"], last["temperature"]) == (0.1, 0.7)


async def test_only_the_logprobs_of_single_deltas_are_missing(
    db: Database, caller: Caller, database_url: str
) -> None:
    steps = [
        Started(),
        ItemStarted(0, dict(MESSAGE)),
        PartStarted(0, 0, "output_text"),
        TextDelta(0, 0, "Hi", [LOGPROB]),
        TextDelta(0, 0, "", [LOGPROB]),
        PartFinished(0, 0),
        ItemFinished(0),
        DONE,
    ]
    draft, whole = await made(db, caller, database_url, steps)
    await forget_events(database_url, draft.id)
    before, after = events_of(whole), events_of(await followed(db, caller, draft.id))
    for event in before:
        if event["type"] == "response.output_text.delta":
            assert event.pop("logprobs")
            event["logprobs"] = []
    assert before == after
    assert after[-1]["response"]["output"][0]["content"][0]["logprobs"] == [LOGPROB, LOGPROB]


async def test_a_cancelled_stream_has_its_beginning_and_its_end(
    db: Database, caller: Caller, database_url: str
) -> None:
    draft = await enqueued(db, caller, stream=True)
    assert await cancel(db, caller, draft.id)
    whole = await followed(db, caller, draft.id)
    await forget_events(database_url, draft.id)
    assert await followed(db, caller, draft.id) == whole
    stored = await found(db, caller, draft.id)
    assert (stored.status, len(frames(whole))) == (Status.CANCELLED, 3)
    async with db.read(caller) as tx:
        assert await responses.shape(tx, draft.id) is None


async def test_a_response_that_nobody_streamed_has_no_shape(
    db: Database, caller: Caller, database_url: str
) -> None:
    draft = await enqueued(db, caller)
    async with working(db, database_url, ScriptedProvider(answer())) as background:
        await generate(background)
    async with db.read(caller) as tx:
        assert await responses.shape(tx, draft.id) is None
