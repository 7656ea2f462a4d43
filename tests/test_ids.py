"""Ids: sorted by time, and exactly one spelling for each."""

import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import ids

UUIDS = st.uuids()
KINDS = st.sampled_from([*ids.ITEM_PREFIXES, "a_kind_yet_to_come"])
PLACES = st.integers(0, 0x20000)


def mint(count: int) -> list[uuid.UUID]:
    return [ids.new_uuid() for _ in range(count)]


def test_each_is_greater_than_the_one_before() -> None:
    minted = mint(20_000)
    assert minted == sorted(set(minted))


def test_threads_never_mint_out_of_order() -> None:
    """What one thread mints is in order, and no two threads share a tick."""
    with ThreadPoolExecutor(8) as threads:
        batches = [it.result() for it in [threads.submit(mint, 2_000) for _ in range(8)]]
    assert all(batch == sorted(batch) for batch in batches)
    ticks = [value.int >> 64 for batch in batches for value in batch]
    assert len(set(ticks)) == len(ticks)


def test_it_is_a_version_7_uuid_of_the_rfc() -> None:
    for value in mint(1_000):
        assert value.version == 7
        assert value.variant == uuid.RFC_4122


def test_the_last_bit_tells_what_is_passing() -> None:
    kept, passing = mint(100), [ids.new_uuid(is_passing=True) for _ in range(100)]
    assert all(ids.names_row(ids.item_id("message", value, 0)) for value in kept)
    assert not any(ids.names_row(ids.item_id("message", value, 0)) for value in passing)
    assert not ids.names_row("msg_of_a_client")


def test_the_time_of_minting_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    later = 4_000_000_000_123_456_789
    monkeypatch.setattr(ids.time, "time_ns", lambda: later)
    monkeypatch.setattr(ids, "_last", [0])
    assert ids.created_at(ids.new_uuid()) == 4_000_000_000


@pytest.mark.parametrize("drift", [0, -3_600_000_000_000], ids=["stands", "goes back"])
def test_order_is_kept_while_the_clock_does_not_advance(monkeypatch: pytest.MonkeyPatch, drift: int) -> None:
    """More than the 4,096 that one millisecond can count: the next one is borrowed."""
    now = 1_800_000_000_000_000_000
    monkeypatch.setattr(ids, "_last", [0])
    monkeypatch.setattr(ids.time, "time_ns", lambda: now)
    first = ids.new_uuid()
    monkeypatch.setattr(ids.time, "time_ns", lambda: now + drift)
    minted = [first, *mint(10_000)]
    assert minted == sorted(set(minted))
    assert {value.version for value in minted} == {7}
    assert ids.created_at(minted[-1]) == 1_800_000_000


@given(UUIDS)
def test_a_response_id_names_its_uuid(value: uuid.UUID) -> None:
    text = ids.response_id(value)
    assert text == f"resp_{value.hex}"
    assert ids.parse_response_id(text) == value


@given(UUIDS, KINDS, PLACES)
def test_an_item_id_names_its_response_and_place(value: uuid.UUID, kind: str, place: int) -> None:
    assert ids.parse_item_id(ids.item_id(kind, value, place)) == (value, place)


def test_no_two_kinds_of_items_share_a_prefix() -> None:
    assert len(set(ids.ITEM_PREFIXES.values())) == len(ids.ITEM_PREFIXES)


HEX = "01a1fd4cb33c7438b390a6442eccd296"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "resp_",
        HEX,
        f"resp{HEX}",
        f"msg_{HEX}",
        f"resp_{HEX.upper()}",
        f"RESP_{HEX}",
        f"resp_{HEX}0",
        f"resp_{'f' * 33}",
        f"resp_{HEX[:-1]}",
        f"resp_{uuid.UUID(HEX)}",
        f"resp_{{{HEX}}}",
        f"resp_{HEX}\n",
        f"resp_ {HEX[1:]}",
        f"resp_0x{HEX[2:]}",
        f"resp_+{HEX[1:]}",
        f"resp_-{HEX[1:]}",
        f"resp_{HEX[0]}_{HEX[2:]}",
        f"resp_{HEX[:-1]}٣",
        f"resp_{HEX[:-1]}g",
        f"resp_{HEX[:-1]}\0",
        f"resp_{HEX[:-1]}\ud800",
    ],
)
def test_a_response_has_one_spelling_and_nothing_else_names_it(text: str) -> None:
    assert ids.parse_response_id(text) is None


@pytest.mark.parametrize(
    "tail", ["", "0", "001", "00001", "000A", "-001", "+001", " 001", "0_01", "0x01", "00g0", "٠٠٠٣"]
)
def test_an_item_has_one_spelling_too(tail: str) -> None:
    assert ids.parse_item_id(f"msg_{HEX}{tail}") is None


@given(st.text())
def test_whatever_a_client_calls_its_items_can_be_asked_for(text: str) -> None:
    found = ids.parse_item_id(text)
    assert found is None or text.endswith(f"{found[0].hex}{found[1]:04x}")


@given(st.text(alphabet="0123456789abcdefABCDEF_+- x٣", min_size=30, max_size=40))
def test_what_parses_is_what_was_minted(text: str) -> None:
    found = ids.parse_response_id(f"resp_{text}")
    assert found is None or found.hex == text


def test_other_ids_do_not_repeat() -> None:
    assert len({ids.request_id() for _ in range(1000)}) == 1000
    assert len({ids.call_id() for _ in range(1000)}) == 1000
    assert ids.request_id().startswith("req_")
    assert ids.call_id().startswith("call_")
