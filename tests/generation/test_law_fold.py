"""Law L2: whatever a provider reports, in whatever order, its stream adds up to the response."""

from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.response import Status
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
from tests.builders import a_draft
from tests.generation.composing import Composed, unheard

Json = dict[str, Any]

SLOTS = st.integers(0, 2)
INDEXES = st.integers(0, 2)
# Few letters, so that a final form often extends what was heard, and often does not.
TEXTS = st.text('ab\n"é\U0001f600', max_size=4)
NOTHING = st.sampled_from([None, ""])
PROGRESS = {
    "web_search_call": ["in_progress", "searching", "completed"],
    "code_interpreter_call": ["in_progress", "interpreting", "completed"],
    "mcp_call": ["in_progress", "completed", "failed"],
}
HEADS: list[Json] = [
    {"type": "message", "role": "assistant"},
    {"type": "reasoning"},
    {"type": "function_call", "call_id": "call_1", "name": "f"},
    {"type": "custom_tool_call", "call_id": "call_1", "name": "f"},
    {"type": "mcp_call", "server_label": "s", "name": "f"},
    {"type": "code_interpreter_call", "container_id": "c_1"},
    {"type": "web_search_call", "action": {}},
    {"type": "computer_call", "call_id": "call_1"},
]
ANNOTATIONS = st.builds(lambda number: {"type": "file_path", "index": number}, st.integers(0, 1))
LOGPROBS = st.lists(st.just({"token": "a", "bytes": [97], "logprob": 0.0}), max_size=1)
STATUSES = st.sampled_from([None, "in_progress", "completed", "incomplete"])
CHOICES = st.sampled_from(
    ["auto", "none", {"type": "function", "name": "f"}, {"type": "function", "name": "g"}]
)


def parts(*kinds: str) -> st.SearchStrategy[list[Json]]:
    """Final forms, whole or with gaps."""
    given_part = st.fixed_dictionaries(
        {"type": st.sampled_from(kinds)},
        optional={
            "text": TEXTS | NOTHING,
            "refusal": TEXTS | NOTHING,
            "annotations": st.lists(ANNOTATIONS, max_size=2) | st.none(),
            "logprobs": LOGPROBS,
        },
    )
    return st.lists(given_part, max_size=2)


FIELDS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "message": {"content": parts("output_text", "refusal", "hologram") | st.none()},
    "reasoning": {
        "content": parts("reasoning_text", "hologram") | st.none(),
        "summary": parts("summary_text"),
        "encrypted_content": st.sampled_from([None, "x=="]),
    },
    "function_call": {"arguments": TEXTS | NOTHING},
    "custom_tool_call": {"input": TEXTS | NOTHING},
    "mcp_call": {"arguments": TEXTS | NOTHING, "output": TEXTS},
    "code_interpreter_call": {"code": TEXTS | NOTHING},
}


def final_items(head: Json) -> st.SearchStrategy[Json]:
    always = {"id": st.just("theirs_1"), "status": STATUSES}
    fields = st.fixed_dictionaries({}, optional=always | FIELDS.get(head["type"], {}))
    return fields.map(lambda told: {**head, **told})


def deltas_of(slot: int, head: Json) -> st.SearchStrategy[Delta]:
    kinds: Any = st.sampled_from(["output_text", "refusal", "reasoning_text", "summary_text"])
    # No other steps than those that adapters hand on.
    steps = [f"response.{head['type']}.{step}" for step in PROGRESS.get(head["type"], ())]
    progress = [st.sampled_from(steps).map(lambda step: Progress(slot, step))] if steps else []
    return st.one_of(
        st.just(ItemStarted(slot, head)),
        st.builds(PartStarted, st.just(slot), INDEXES, kinds),
        st.builds(TextDelta, st.just(slot), INDEXES, TEXTS, LOGPROBS),
        st.builds(AnnotationAdded, st.just(slot), INDEXES, ANNOTATIONS),
        st.builds(
            PartFinished,
            st.just(slot),
            INDEXES,
            st.none() | parts("output_text").map(lambda some: (some or [{}])[0]),
        ),
        st.builds(InputDelta, st.just(slot), TEXTS),
        *progress,
        st.builds(ItemFinished, st.just(slot), st.none() | final_items(head)),
    )


def plausible(script: list[Delta]) -> list[Delta]:
    """A hosted call ends once: what an upstream says of its steps is handed on as it is."""
    over = set[int]()
    kept: list[Delta] = []
    for delta in script:
        if isinstance(delta, Progress):
            if delta.slot in over:
                continue
            if delta.event.endswith(("completed", "failed")):
                over.add(delta.slot)
        kept.append(delta)
    return kept


@st.composite
def scripts(draw: st.DrawFn) -> list[Delta]:
    """Up to three items by turns, often after a beginning and often before an end."""
    heads = [draw(st.sampled_from(HEADS)) for _ in range(3)]
    ends: list[Delta] = [
        Finished("completed"),
        Finished("incomplete", reason="content_filter"),
        Finished("failed"),
    ]
    some = draw(st.lists(SLOTS.flatmap(lambda slot: deltas_of(slot, heads[slot])), max_size=20))
    begun = draw(st.lists(st.just(Started("m")), max_size=1))
    return [*begun, *plausible(some), *draw(st.lists(st.sampled_from(ends), max_size=1))]


@settings(max_examples=40, deadline=None)
@given(
    script=scripts(),
    status=st.sampled_from([None, None, Status.FAILED, Status.CANCELLED]),
    choice=CHOICES,
    is_serial=st.booleans(),
)
def test_any_script_is_a_grammatical_stream_that_adds_up_to_the_response(
    *, script: list[Delta], status: Status | None, choice: Any, is_serial: bool
) -> None:
    draft = a_draft(tool_choice=choice, parallel_tool_calls=not is_serial)
    # What never began is no response at all: the engine raises instead (see test_engine).
    script = script or [Started()]
    heard = Composed(*script, draft=draft, status=status, pads=is_serial)
    quiet = unheard(*script, draft=draft, status=status)
    assert quiet.output_blob == heard.composer.output_blob
    assert quiet.upstream_ids == heard.composer.upstream_ids
    assert quiet.status is heard.composer.status
    assert orjson.loads(quiet.json)["output"] == heard.output
