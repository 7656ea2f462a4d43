"""What is told of an end, and when it is told again."""

import base64

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import ids
from app.domain.response import TERMINAL
from app.domain.webhooks import (
    EVENT_TYPES,
    LONGEST_PAUSE_SECONDS,
    Event,
    event_of,
    hint_of,
    mint_secret,
    pause_seconds,
)


def test_every_end_is_an_event_and_nothing_else_is() -> None:
    assert {event_of(status) for status in TERMINAL} == set(EVENT_TYPES)


def test_an_event_carries_the_response_s_id_alone() -> None:
    key = ids.new_uuid()
    event = Event(key, "response.completed", 7)
    assert orjson.loads(event.body) == {
        "id": f"evt_{key.hex}",
        "object": "event",
        "created_at": 7,
        "type": "response.completed",
        "data": {"id": f"resp_{key.hex}"},
    }


def test_a_secret_is_32_random_bytes_and_its_hint_gives_little_away() -> None:
    secret, other = mint_secret(), mint_secret()
    assert secret != other
    assert secret.startswith("whsec_")
    assert len(base64.b64decode(secret.removeprefix("whsec_"), validate=True)) == 32
    hint = hint_of(secret)
    assert hint.startswith("whsec_****")
    assert len(hint) == len("whsec_****") + 4
    assert hint[-4:] in secret


@given(st.integers(1, 32_000), st.floats(0, 1))
def test_pauses_double_up_to_a_bound_a_quarter_more_or_less(tries: int, chance: float) -> None:
    pause = pause_seconds(tries, first_seconds=5, chance=chance)
    plain = min(5.0 * 2 ** min(tries - 1, 30), LONGEST_PAUSE_SECONDS)
    assert 0.75 * plain <= pause <= 1.25 * plain


@pytest.mark.parametrize("chance", [0.0, 1.0])
def test_three_days_hold_some_twenty_tries(chance: float) -> None:
    waited, tries = 0.0, 0
    while waited <= 72 * 3600:
        tries += 1
        waited += pause_seconds(tries, first_seconds=5, chance=chance)
    assert 17 <= tries <= 25
