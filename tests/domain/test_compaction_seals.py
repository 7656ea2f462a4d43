import base64

import pytest

from app.domain.compaction import Memory
from app.domain.compaction_seals import FORM, NO_SEALS, MemorySeals, is_ours
from app.domain.seals import CannotOpen

KEY, OTHER = bytes(range(32)), bytes(32)
USER = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Grüße, 日本 🚢"}]}
CALL = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "f", "arguments": "{}"}
MEMORY = Memory([USER], "the secret", [CALL])


def test_what_was_sealed_is_opened_by_the_same_key_and_is_not_to_be_seen() -> None:
    sealed = MemorySeals(KEY).seal(MEMORY, "acme")
    assert MemorySeals(KEY).open(sealed, "acme") == MEMORY
    assert sealed.isascii()
    assert b"secret" not in base64.urlsafe_b64decode(sealed.removeprefix(FORM))


def test_sealing_twice_shows_nothing_of_it_being_the_same() -> None:
    seals = MemorySeals(KEY)
    assert seals.seal(MEMORY, "acme")[:21] != seals.seal(MEMORY, "acme")[:21]


def test_an_old_key_opens_and_does_not_seal() -> None:
    sealed = MemorySeals(OTHER).seal(MEMORY, "acme")
    rotated = MemorySeals(KEY, [OTHER])
    assert rotated.open(sealed, "acme") == MEMORY
    assert MemorySeals(KEY).open(rotated.seal(MEMORY, "acme"), "acme") == MEMORY
    assert not MemorySeals(None, [OTHER]).can_seal
    with pytest.raises(ValueError, match="no key"):
        NO_SEALS.seal(MEMORY, "acme")


@pytest.mark.parametrize(("key", "tenant"), [(OTHER, "acme"), (KEY, "other"), (None, "acme")])
def test_another_key_or_tenant_cannot_open_it(key: bytes | None, tenant: str) -> None:
    sealed = MemorySeals(KEY).seal(MEMORY, "acme")
    with pytest.raises(CannotOpen):
        MemorySeals(key).open(sealed, tenant)


def test_whatever_is_changed_of_it_it_cannot_be_opened() -> None:
    sealed = MemorySeals(KEY).seal(MEMORY, "acme")
    for place, sign in enumerate(sealed):
        for other in {"A", "B", "=", "é"} - {sign}:
            with pytest.raises(CannotOpen):
                MemorySeals(KEY).open(sealed[:place] + other + sealed[place + 1 :], "acme")


@pytest.mark.parametrize(
    "content", ["", "gAAAAABo", FORM, FORM + "AAAA", FORM + "A" * 40, "é", "\0", "hfc2.AAAA"]
)
def test_garbage_is_not_opened(content: str) -> None:
    with pytest.raises(CannotOpen):
        MemorySeals(KEY).open(content, "acme")


def test_a_shortened_or_prolonged_one_is_not_opened() -> None:
    sealed = MemorySeals(KEY).seal(MEMORY, "acme")
    for other in [sealed[:at] for at in range(len(sealed))] + [sealed + "A", sealed + "AAAA", " " + sealed]:
        with pytest.raises(CannotOpen):
            MemorySeals(KEY).open(other, "acme")


def test_ours_are_told_from_those_of_others() -> None:
    assert is_ours(MemorySeals(KEY).seal(MEMORY, "acme"))
    assert not is_ours("gAAAAABo")


@pytest.mark.parametrize("length", range(4))
def test_another_spelling_of_the_same_bytes_is_refused(length: int) -> None:
    """Base64 leaves bits of its last sign unused."""
    sealed = MemorySeals(KEY).seal(Memory([], "x" * length), "acme")
    last = len(sealed.rstrip("=")) - 1
    for sign in {*"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"} - {sealed[last]}:
        with pytest.raises(CannotOpen):
            MemorySeals(KEY).open(sealed[:last] + sign + sealed[last + 1 :], "acme")
