from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.seals import NO_SEALS, CannotOpen, Seals

KEY, OTHER = bytes(range(32)), bytes(32)
ID = UUID(int=7)
TEXT = b"the secret"


def test_what_was_sealed_is_opened_by_the_same_key_and_is_not_to_be_seen() -> None:
    sealed = Seals(KEY).seal(TEXT, 1, ID)
    assert TEXT not in sealed
    assert Seals(KEY).open(sealed, 1, ID) == TEXT


def test_sealing_twice_shows_nothing_of_it_being_the_same() -> None:
    seals = Seals(KEY)
    assert seals.seal(TEXT, 1, ID)[:13] != seals.seal(TEXT, 1, ID)[:13]


def test_an_old_key_opens_and_does_not_seal() -> None:
    sealed = Seals(OTHER).seal(TEXT, 1, ID)
    rotated = Seals(KEY, [OTHER])
    assert rotated.open(sealed, 1, ID) == TEXT
    assert Seals(KEY).open(rotated.seal(TEXT, 1, ID), 1, ID) == TEXT
    assert Seals(None, [OTHER]).open(sealed, 1, ID) == TEXT
    assert not Seals(None, [OTHER]).can_seal


@pytest.mark.parametrize(("tenant_id", "response_id"), [(2, ID), (1, UUID(int=8))])
def test_moved_to_another_row_it_cannot_be_opened(tenant_id: int, response_id: UUID) -> None:
    sealed = Seals(KEY).seal(TEXT, 1, ID)
    with pytest.raises(CannotOpen):
        Seals(KEY).open(sealed, tenant_id, response_id)


def test_another_key_and_no_key_open_nothing() -> None:
    sealed = Seals(KEY).seal(TEXT, 1, ID)
    for seals in (Seals(OTHER), NO_SEALS):
        with pytest.raises(CannotOpen):
            seals.open(sealed, 1, ID)
    with pytest.raises(ValueError, match="no key"):
        NO_SEALS.seal(TEXT, 1, ID)


SEALED = Seals(KEY).seal(TEXT, 1, ID)


def _flipped(at: int) -> bytes:
    return SEALED[:at] + bytes([SEALED[at] ^ 1]) + SEALED[at + 1 :]


@given(
    st.binary(max_size=60)
    | st.integers(0, 38).map(_flipped)
    | st.integers(0, 38).map(lambda end: SEALED[:end])
)
def test_whatever_is_no_sealed_text_is_refused_in_one_way(text: bytes) -> None:
    with pytest.raises(CannotOpen):
        Seals(KEY).open(text, 1, ID)
