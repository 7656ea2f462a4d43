"""The checker is checked: it must notice what the composer never does."""

from typing import Any

import pytest

from app.providers.base import Started
from tests import grammar
from tests.generation.composing import Composed, rich

Json = dict[str, Any]

STREAM = Composed(Started(), *rich()).events
EXPENDABLE = {
    # Steps that a hosted tool may leave out.
    "response.web_search_call.in_progress",
    "response.web_search_call.searching",
    "response.web_search_call.completed",
    "response.mcp_call.completed",
}


def renumbered(events: list[Json]) -> list[Json]:
    return [{**event, "sequence_number": number} for number, event in enumerate(events)]


@pytest.mark.parametrize("place", range(len(STREAM)), ids=lambda place: f"{place}-{STREAM[place]['type']}")
def test_a_lost_event_is_noticed(place: int) -> None:
    rest = renumbered(STREAM[:place] + STREAM[place + 1 :])
    if STREAM[place]["type"] in EXPENDABLE:
        grammar.check(rest)
    else:
        with pytest.raises((AssertionError, IndexError)):
            grammar.check(rest)


@pytest.mark.parametrize("place", range(len(STREAM)), ids=lambda place: f"{place}-{STREAM[place]['type']}")
def test_a_repeated_event_is_noticed(place: int) -> None:
    if STREAM[place]["type"] in EXPENDABLE and not STREAM[place]["type"].endswith("completed"):
        return
    with pytest.raises(AssertionError):
        grammar.check(renumbered(STREAM[: place + 1] + STREAM[place:]))


@pytest.mark.parametrize("place", range(len(STREAM) - 1))
def test_a_gap_in_the_numbers_is_noticed(place: int) -> None:
    with pytest.raises(AssertionError):
        grammar.check(
            [*STREAM[:place], *({**e, "sequence_number": e["sequence_number"] + 1} for e in STREAM[place:])]
        )


@pytest.mark.parametrize("key", ["id", "type"])
def test_an_item_that_changes_its_name_is_noticed(key: str) -> None:
    changed = [
        {**event, "item": {**event["item"], key: "other"}}
        if event["type"] == "response.output_item.done" and event["item"]["type"] == "web_search_call"
        else event
        for event in STREAM
    ]
    with pytest.raises(AssertionError):
        grammar.check(changed)


def test_a_last_word_that_tells_another_story_is_noticed() -> None:
    last = STREAM[-1]
    other = {**last, "response": {**last["response"], "output": last["response"]["output"][1:]}}
    with pytest.raises(AssertionError):
        grammar.check([*STREAM[:-1], other])
