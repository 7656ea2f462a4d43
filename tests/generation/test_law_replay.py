"""Law L1 where the journal is gone, or was never finished: whatever was said, it is said again so.

Any script, any cut. That a stored journal gives the bytes of the live stream is in `test_follow`.
"""

from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.events import Event
from app.domain.gates import Gated
from app.domain.jobs import SHOWN_BY_QUEUEING, Mode
from app.domain.response import Draft, Status, snapshot
from app.generation.composer import Composer
from app.generation.queueing import queued_events
from app.generation.rebuild import rebuild
from app.generation.salvage import salvage
from app.providers.base import Delta, Started
from app.store.responses import StoredResponse
from tests import grammar
from tests.builders import a_draft
from tests.generation.composing import parsed, rich
from tests.generation.test_law_fold import CHOICES, scripts

ERROR = {"code": "server_error", "message": "Gone."}


class Said:
    """A background stream that has been composed, delta by delta."""

    def __init__(self, draft: Draft, script: list[Delta]) -> None:
        queued = orjson.dumps(snapshot(draft, status=Status.QUEUED, output=[]))
        self.draft = draft
        self.composer = Composer(draft, begins_at=SHOWN_BY_QUEUEING, keeps_shape=True)
        self.events: list[Event] = [*queued_events(queued)]
        self.cuts = list[int]()
        """Where a batch of the journal may end: events of one delta are never apart."""
        for delta in script:
            self.events += self.composer.feed(delta)
            self.cuts.append(len(self.events))

    def close(self, status: Status | None = None) -> None:
        error = ERROR if status is Status.FAILED else None
        self.events += self.composer.close(status, error=error)

    def stored(self) -> StoredResponse:
        return StoredResponse(
            id=self.draft.id,
            status=self.composer.status,
            body=self.composer.body,
            input_blob=self.draft.input.blob,
            output_blob=self.composer.output_blob,
            input_gated=Gated.NONE,
            output_gated=Gated.NONE,
            mode=Mode.BACKGROUND | Mode.STREAMED,
            event_count=self.composer.event_count,
        )

    def again(self) -> list[Event]:
        return rebuild(self.stored(), orjson.dumps(self.composer.shape))


def without_logprobs(events: list[Event]) -> list[dict[str, Any]]:
    """The one thing that is not kept for each delta."""
    found = parsed(events)
    for event in found:
        if event["type"] == "response.output_text.delta":
            event["logprobs"] = []
    return found


@settings(max_examples=40, deadline=None)
@given(script=scripts(), choice=CHOICES, is_serial=st.booleans(), has_failed=st.booleans())
def test_any_stream_can_be_said_again_from_its_items(
    *, script: list[Delta], choice: Any, is_serial: bool, has_failed: bool
) -> None:
    said = Said(a_draft(stream=True, tool_choice=choice, parallel_tool_calls=not is_serial), script)
    said.close(Status.FAILED if has_failed else None)
    again = said.again()
    assert without_logprobs(again) == without_logprobs(said.events)
    assert len(again) == said.composer.event_count
    if without_logprobs(said.events) == parsed(said.events):
        assert again == said.events


def check_salvage(said: Said, cut: int) -> None:
    """A run that vanished after so many events is ended in words, and can still be said again."""
    shown = said.events[:cut]
    lost = Said(said.draft, [])
    lost.events = [*shown]
    lost.composer = salvage(said.draft, b"".join(event.frame for event in shown))
    assert lost.composer.event_count == cut
    lost.close(Status.FAILED)
    assert lost.events[:cut] == shown
    response = grammar.check(parsed([*lost.events, lost.composer.terminal()]))
    assert (response["status"], response["error"]) == ("failed", ERROR)
    assert without_logprobs(lost.again()) == without_logprobs(lost.events)


@settings(max_examples=15, deadline=None)
@given(script=scripts(), choice=CHOICES, is_serial=st.booleans(), data=st.data())
def test_any_stream_whose_worker_is_lost_is_ended_in_words(
    *, script: list[Delta], choice: Any, is_serial: bool, data: st.DataObject
) -> None:
    draft = a_draft(stream=True, tool_choice=choice, parallel_tool_calls=not is_serial)
    said = Said(draft, [Started("m"), *script])
    check_salvage(said, data.draw(st.sampled_from(said.cuts)))


def test_a_rich_stream_is_ended_in_words_wherever_it_was_cut() -> None:
    said = Said(a_draft(stream=True), [Started("a-model-1"), *rich()])
    for cut in sorted({*said.cuts}):
        check_salvage(said, cut)
