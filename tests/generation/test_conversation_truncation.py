"""A conversation that is longer than the model's window: cut alike in the foreground and the background."""

from typing import Any

import orjson
import pytest

from app.domain import tokens
from app.domain.tenancy import Caller
from app.errors import InvalidRequest, UpstreamError
from app.generation import history
from app.generation.accept import accept
from app.generation.background import Background, Policy
from app.generation.history import Terms
from app.generation.queueing import enqueue
from app.providers.registry import Entry, Registry
from app.store.db import Database
from app.store.entries import Entries
from tests.background import POLICY, body, generate
from tests.builders import a_draft
from tests.conversing import a_conversation, add, add_items, holder, said_in
from tests.scripted import ScriptedProvider, answer

pytestmark = pytest.mark.usefixtures("nothing_queued")

TURNS = 12
NEW = {"role": "user", "content": "new", "id": "msg_new"}
"""Named, so that two contexts can be the same to the byte."""


@pytest.fixture
async def name(db: Database, caller: Caller) -> str:
    """Turns of a question, a call, its output and an answer; every third one is long."""
    name = await a_conversation(db, caller)
    for number in range(TURNS):
        call = {"type": "function_call", "call_id": f"call_{number}", "name": "f", "arguments": "{}"}
        output = {
            "type": "function_call_output",
            "call_id": f"call_{number}",
            "output": "x" * 200 * (number % 3),
        }
        await add_items(
            db, caller, name,
            {"role": "user", "content": f"question {number}"}, call,
        )  # fmt: skip
        await add_items(db, caller, name, output, {"role": "assistant", "content": f"answer {number}"})
    return name


async def in_foreground(db: Database, caller: Caller, name: str, window: int, **params: Any) -> bytes:
    """What the model would be sent."""
    draft = a_draft(conversation=name, input=[NEW], **params)
    accepted = await accept(db, caller, draft, Terms(context_window_tokens=window))
    assert accepted.lock
    await history.release(db, accepted.lock)
    return b",".join(blob for blob in accepted.items("scripted") if blob)


async def in_background(db: Database, caller: Caller, name: str, window: int, **params: Any) -> bytes:
    """What the model was sent; the response then fails, so that nothing is appended."""
    provider = ScriptedProvider([UpstreamError("Enough.")])
    draft = a_draft(conversation=name, input=[NEW], background=True, **params)
    accepted = await accept(db, caller, draft, Terms(context_window_tokens=window))
    await enqueue(db, Entries(db, max_queued=9), caller, accepted)
    entry = Entry(provider, [provider.name], {"a-model": provider.name}, {"*": window})
    assert await generate(Background(db, Registry([entry]), Policy(**POLICY)))
    return provider.contexts[0].joined()


def whole_turns(sent: bytes) -> int:
    """How many old turns are in a context, which must be the latest ones, whole."""
    items: list[dict[str, Any]] = orjson.loads(b"[" + sent + b"]")
    assert items.pop()["content"][0]["text"] == "new"
    assert len(items) % 4 == 0
    kept = len(items) // 4
    for number in range(TURNS - kept, TURNS):
        question, call, output, said = items[:4]
        assert question["content"][0]["text"] == f"question {number}"
        assert call["call_id"] == output["call_id"] == f"call_{number}"
        assert said["content"][0]["text"] == f"answer {number}"
        del items[:4]
    return kept


@pytest.mark.parametrize("window", [60, 150, 300, 500, 777, 1000, 1500, 4000])
async def test_the_latest_whole_turns_that_fit_are_sent(
    db: Database, caller: Caller, name: str, window: int
) -> None:
    sent = await in_foreground(db, caller, name, window, truncation="auto")
    assert sent == await in_background(db, caller, name, window, truncation="auto")
    assert tokens.estimate(sent) <= window
    kept = whole_turns(sent)
    if kept < TURNS:
        more = await in_foreground(db, caller, name, 100_000, truncation="auto")
        whole = orjson.loads(b"[" + more + b"]")[-1 - 4 * (kept + 1) :]
        assert tokens.estimate(orjson.dumps(whole)) > window - 2, "another turn would have had room"


async def test_instructions_tools_and_the_answer_take_their_room(
    db: Database, caller: Caller, name: str
) -> None:
    plain = whole_turns(await in_foreground(db, caller, name, 1000, truncation="auto"))
    tools = [{"type": "function", "name": "f", "description": "x" * 800}]
    for params in ({"instructions": "x" * 800}, {"tools": tools}, {"max_output_tokens": 400}):
        sent = await in_foreground(db, caller, name, 1000, truncation="auto", **params)
        assert sent == await in_background(db, caller, name, 1000, truncation="auto", **params)
        assert whole_turns(sent) < plain


@pytest.mark.parametrize("truncation", [None, "disabled"])
@pytest.mark.parametrize("is_background", [False, True])
async def test_what_may_not_be_cut_is_refused_and_leaves_no_lock(
    db: Database, caller: Caller, database_url: str, name: str, truncation: str | None, *, is_background: bool
) -> None:
    draft = a_draft(conversation=name, truncation=truncation, background=is_background)
    with pytest.raises(InvalidRequest) as refused:
        await accept(db, caller, draft, Terms(context_window_tokens=300))
    assert (refused.value.code, refused.value.param) == ("context_length_exceeded", "input")
    assert await holder(database_url, name) is None


async def test_a_new_input_that_is_too_long_by_itself_is_refused(
    db: Database, caller: Caller, database_url: str, name: str
) -> None:
    draft = a_draft(conversation=name, truncation="auto", input="x" * 2000)
    with pytest.raises(InvalidRequest):
        await accept(db, caller, draft, Terms(context_window_tokens=300))
    assert await holder(database_url, name) is None


async def test_an_output_that_cannot_be_parted_from_an_old_call_is_refused_without_it(
    db: Database, caller: Caller, database_url: str
) -> None:
    """The call is so far back that it has no room; without it its output would mean nothing."""
    name = await a_conversation(db, caller)
    call = {"type": "function_call", "call_id": "call_old", "name": "f", "arguments": '"' + "x" * 2000 + '"'}
    await add_items(db, caller, name, {"role": "user", "content": "one"}, call)
    output = {"type": "function_call_output", "call_id": "call_old", "output": "1"}
    draft = a_draft(conversation=name, truncation="auto", input=[output])
    with pytest.raises(InvalidRequest):
        await accept(db, caller, draft, Terms(context_window_tokens=300))
    assert await holder(database_url, name) is None


async def test_what_was_not_sent_stays_in_the_conversation(db: Database, caller: Caller, name: str) -> None:
    before = await said_in(db, caller, name)
    provider = ScriptedProvider(answer("short"))
    draft = a_draft(conversation=name, input="new", background=True, truncation="auto")
    accepted = await accept(db, caller, draft, Terms(context_window_tokens=150))
    await enqueue(db, Entries(db, max_queued=9), caller, accepted)
    entry = Entry(provider, [provider.name], {"a-model": provider.name}, {"*": 150})
    assert await generate(Background(db, Registry([entry]), Policy(**POLICY)))
    assert (await body(db, caller, draft.id))["status"] == "completed"
    assert await said_in(db, caller, name) == [*before, "new", "short"]
    await add(db, caller, name, "more")
