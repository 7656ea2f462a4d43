"""Spans of time: whatever lies ahead is in one of them and in no other, and they grow no faster than the way."""

from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from app.store.timed_words import LEVELS, spans, words_of

YEAR = 365 * 86_400_000
TIMES = st.integers(0, 100 * YEAR) | st.integers(1_700_000_000_000, 1_700_000_000_000 + 3 * YEAR)
TENANT = 7


def minted(millis: int, tail: int = 0) -> UUID:
    return UUID(int=millis << 80 | tail)


def level_of(word: str) -> int:
    return int(word.split("/")[1])


@given(
    begin=TIMES,
    way=st.integers(0, 3 * YEAR),
    reach=st.floats(0, 1),
    at=st.floats(0, 1),
    is_newest=st.booleans(),
)
def test_each_id_ahead_is_in_one_span(
    begin: int, way: int, reach: float, at: float, *, is_newest: bool
) -> None:
    step = -1 if is_newest else 1
    edge = minted(begin, (1 << 80) - 1 if is_newest else 0)
    stop = max(0, begin + step * (1 + int(way * reach * 0.1)))
    end = max(0, begin + step * way)
    here = max(0, stop + int((end - stop) * at))
    ahead = spans(TENANT, edge, minted(stop), minted(end), newest_first=is_newest)
    if (end - stop) * step >= 0:
        words = {f"'{word}'" for word in words_of(TENANT, minted(here, 12345))}
        assert len(words & set(ahead)) == 1


@given(begin=TIMES, way=st.integers(1, 3 * YEAR), is_newest=st.booleans())
def test_spans_are_in_order_and_few_and_no_longer_than_twice_the_way_to_them(
    begin: int, way: int, *, is_newest: bool
) -> None:
    end = max(0, begin - way) if is_newest else begin + way
    ahead = spans(TENANT, minted(begin), minted(end), minted(end), newest_first=is_newest)
    whole = spans(TENANT, minted(begin), minted(begin), minted(end), newest_first=is_newest)
    assert set(ahead) <= set(whole)
    assert len(whole) <= 11 * len(LEVELS) + 3
    passed = 0
    for word in whole:
        length = 1 << level_of(word)
        assert length <= max(1 << LEVELS[0], 2 * passed)
        passed += length


def test_a_tenant_is_in_none_of_anothers() -> None:
    one = minted(1_700_000_000_000)
    assert not {*words_of(1, one)} & {*words_of(11, one)}
    assert not {*words_of(1, one)} & {*words_of(2, one)}
    assert len({*words_of(1, one)}) == len(LEVELS)
