"""Feeding a composer by hand, and reading what it says."""

from collections.abc import Iterable
from typing import Any

import orjson

from app.domain.events import Event
from app.domain.response import Draft, Status
from app.generation.composer import Composer
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
from tests import grammar
from tests.builders import a_draft
from tests.scripted import DONE

Json = dict[str, Any]

MESSAGE = {"type": "message", "role": "assistant"}
REASONING = {"type": "reasoning"}
CALL = {"type": "function_call", "call_id": "call_1", "name": "f"}
CITATION = {
    "type": "url_citation",
    "url": "https://a.example",
    "title": "A",
    "start_index": 0,
    "end_index": 2,
}
LOGPROB = {"token": "Hi", "bytes": [72, 105], "logprob": -0.1, "top_logprobs": []}


def parsed(events: Iterable[Event]) -> list[Json]:
    """The events as a client reads them; each one's name must be in its data."""
    found = [orjson.loads(event.data) for event in events]
    for event, data in zip(events, found, strict=True):
        assert (event.type, event.sequence_number) == (data["type"], data["sequence_number"])
    return found


class Composed:
    """A stream that was composed to its end, held to the grammar and to law L2."""

    def __init__(
        self,
        *deltas: Delta,
        draft: Draft | None = None,
        status: Status | None = None,
        error: Json | None = None,
        pads: bool = False,
    ) -> None:
        self.composer = Composer(draft or a_draft(), pads=pads)
        said: list[Event] = []
        for delta in deltas:
            said += self.composer.feed(delta)
        said += self.composer.close(status, error=error)
        said.append(self.composer.terminal())
        self.events = parsed(said)
        self.response: Json = orjson.loads(self.composer.json)
        assert grammar.check(self.events) == self.response

    @property
    def output(self) -> list[Json]:
        return self.response["output"]

    @property
    def names(self) -> list[str]:
        """The events between the beginning and the end, shortened."""
        return [event["type"].removeprefix("response.") for event in self.events[2:-1]]

    def said(self, name: str) -> list[Json]:
        """All events of one name."""
        return [event for event in self.events if event["type"] == f"response.{name}"]


def composed(*deltas: Delta, **how: Any) -> Composed:
    """Deltas between a beginning and a good end."""
    return Composed(Started("a-model-1"), *deltas, DONE, **how)


def unheard(*deltas: Delta, draft: Draft, status: Status | None = None) -> Composer:
    """The same deltas, of which only the result counts."""
    composer = Composer(draft, is_heard=False)
    for delta in deltas:
        assert composer.feed(delta) == []
    assert composer.close(status) == []
    return composer


def said(slot: int, index: int, kind: Any, *texts: str, final: Json | None = None) -> list[Delta]:
    """One part from its beginning to its end."""
    return [
        PartStarted(slot, index, kind),
        *(TextDelta(slot, index, text) for text in texts),
        PartFinished(slot, index, final),
    ]


def text_of(item: Json) -> list[str]:
    """What the parts of a message say."""
    return [part.get("text", part.get("refusal")) for part in item["content"]]


def rich() -> list[Delta]:
    """Something of everything."""
    return [
        ItemStarted(0, REASONING | {"id": "rs_theirs", "summary": []}),
        *said(0, 0, "summary_text", "Think", "ing."),
        *said(0, 1, "reasoning_text", "Deep."),
        ItemFinished(0, REASONING | {"id": "rs_theirs", "summary": [], "encrypted_content": "x=="}),
        ItemStarted(1, {"type": "web_search_call", "id": "ws_1", "status": "in_progress"}),
        Progress(1, "response.web_search_call.in_progress"),
        Progress(1, "response.web_search_call.searching"),
        Progress(1, "response.web_search_call.completed"),
        ItemFinished(
            1, {"type": "web_search_call", "status": "completed", "action": {"type": "search", "query": "q"}}
        ),
        ItemStarted(2, MESSAGE | {"id": "msg_theirs", "content": [], "status": "in_progress"}),
        PartStarted(2, 0, "output_text"),
        TextDelta(2, 0, "Hi", [LOGPROB]),
        AnnotationAdded(2, 0, CITATION),
        TextDelta(2, 0, " there"),
        PartFinished(2, 0),
        *said(2, 1, "refusal", "But ", "no."),
        ItemFinished(2),
        ItemStarted(3, {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": ""}),
        ItemStarted(4, {"type": "custom_tool_call", "call_id": "call_2", "name": "g"}),
        InputDelta(3, '{"a"'),
        InputDelta(4, "free "),
        InputDelta(3, ":1}"),
        InputDelta(4, "text"),
        ItemFinished(3),
        ItemFinished(4),
        ItemStarted(5, {"type": "mcp_call", "server_label": "s", "name": "f"}),
        Progress(5, "response.mcp_call.completed"),
        ItemFinished(5, {"type": "mcp_call", "arguments": "{}", "output": "ok", "name": "f"}),
        Finished("completed", {"input_tokens": 3, "output_tokens": 4}),
    ]
