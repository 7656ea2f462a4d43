"""Cursors of exports: exact, of one spelling, and bound to every filter there is."""

from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given as having
from hypothesis import strategies as st

from app.domain.audit import Head
from app.domain.export import (
    Bounds,
    Chain,
    Export,
    NoCursor,
    Place,
    cursor_in,
    cursor_line,
    decode,
    encode,
    fingerprint,
    given,
)
from app.domain.response import Status
from app.domain.search import Filters

NOW = datetime(2026, 11, 21, 12, 0, 0, 123456, tzinfo=UTC)
EVERY: dict[str, Any] = {
    "model": "m",
    "status": Status.QUEUED,
    "created_after": NOW,
    "created_before": NOW,
    "conversation": UUID(int=1),
    "previous": UUID(int=2),
    "root": UUID(int=3),
    "user": "",
    "safety_identifier": "s",
    "metadata": {"b": "1", "a": "2"},
    "is_background": False,
    "error_code": "e",
    "tool": "t",
    "attempts_over": 0,
    "words": "w\0",
}

counts = st.integers(0, (1 << 62) - 1)
hashes = st.binary(min_size=32, max_size=32)
heads = st.builds(Head, counts, hashes)
moments = st.datetimes(timezones=st.just(UTC))
bounds = st.builds(Bounds, moments, st.uuids(), heads, heads, st.booleans())
exports = st.builds(Export, st.uuids(), st.integers(0, 1 << 40), st.just(Filters()), bounds)
places = st.builds(Place, st.uuids(), counts, counts, counts, counts, hashes)


@having(exports, places)
def test_a_cursor_is_all_that_is_needed(export: Export, place: Place) -> None:
    cursor = encode(export, place)
    assert decode(cursor, export.tenant_id, Filters()) == (export, place)
    assert cursor_in(cursor_line(cursor)) == cursor


@having(exports, places, st.data())
def test_no_other_spelling_is_the_same_cursor(export: Export, place: Place, data: st.DataObject) -> None:
    cursor = encode(export, place)
    at = data.draw(st.integers(0, 8) | st.integers(0, len(cursor) - 1))
    other = cursor[:at] + data.draw(st.sampled_from("AZaz09-_= +/\n")) + cursor[at + 1 :]
    try:
        found = decode(other, export.tenant_id, Filters())
    except NoCursor:
        return
    assert (found == (export, place)) == (other == cursor)


@having(st.text())
def test_anything_else_is_none(text: str) -> None:
    with pytest.raises(NoCursor):
        decode(text, 1, Filters())


@pytest.mark.parametrize("name", [field.name for field in fields(Filters)])
def test_every_filter_tells_exports_apart(name: str) -> None:
    some = Filters(**EVERY)
    assert fingerprint(Filters(**{name: EVERY[name]})) != fingerprint(Filters())
    assert fingerprint(some) != fingerprint(replace(some, **{name: getattr(Filters(), name)}))


def test_filters_are_told_as_a_query_has_them() -> None:
    said = given(Filters(**EVERY))
    assert said["background"] is False
    assert said["created_after"] == "2026-11-21T12:00:00.123456+00:00"
    assert said["previous_response_id"].startswith("resp_")
    assert said["conversation"].startswith("conv_")
    assert [*said["metadata"]] == ["a", "b"]
    assert len(said) == len(fields(Filters))
    assert given(Filters()) == {}


@pytest.mark.parametrize(
    "line",
    [
        b'{"object":"export.cursor","cursor":"AA"}',
        b'{"object":"export.cursor","cursor":"AA\n',
        b'{"object":"export"}\n',
        b'{ "object":"export.cursor","cursor":"AA"}\n',
        b"",
    ],
)
def test_what_is_no_whole_line_of_a_cursor_has_none(line: bytes) -> None:
    assert cursor_in(line) is None


def test_links_are_the_same_wherever_one_goes_on() -> None:
    chain = Chain(Place())
    chain.add(b"a\n")
    chain.close()
    place = replace(chain.place)
    for each in (chain, Chain(place)):
        each.open("cursor")
        each.add(b"b\n")
        each.close()
    assert place == chain.place
    assert place.size == len(b"a\n" + cursor_line("cursor") + b"b\n")
