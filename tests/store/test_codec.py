import random
import re
from pathlib import Path

import asyncpg
import orjson
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from app.store import codec
from app.store.codec import CODEC, MAX_BYTES, compress, decompress, head
from tests.store.turns import a_turn

SHIPPED = {
    int(re.sub(r"\D", "", path.stem)): path.read_bytes()
    for path in Path(codec.__file__).parent.glob("dictionary_*.zstd")
}


def frame_that_claims(size: int) -> bytes:
    """The header of a frame with a content size of eight bytes (RFC 8878 §3.1.1), and nothing behind it."""
    return b"\x28\xb5\x2f\xfd\xe0" + size.to_bytes(8, "little")


@given(st.binary(max_size=5000))
def test_what_was_compressed_comes_back(data: bytes) -> None:
    assert decompress(compress(data), CODEC) == data


def test_large_data_comes_back() -> None:
    data = b"0123456789abcdef" * 1_000_000
    assert decompress(compress(data), CODEC) == data


@given(st.binary(max_size=5000), st.integers(0, 6000))
def test_the_head_is_how_it_begins(data: bytes, size: int) -> None:
    assert head(compress(data), CODEC, size) == data[:size]


def test_the_head_of_large_data_unfolds_nothing_behind_it() -> None:
    whole = compress(b"0123456789abcdef" * 1_000_000)
    assert head(whole, CODEC, 100) == (b"0123456789abcdef" * 7)[:100]
    noise = random.Random(1).randbytes(1_000_000)
    torn = compress(noise)[:500_000]
    assert head(torn, CODEC, 100) == noise[:100]
    with pytest.raises(ValueError, match="damaged"):
        head(torn, CODEC, 1_000_000)


@pytest.mark.parametrize(
    ("data", "codec", "words"),
    [
        (b"", CODEC, "damaged"),
        (b"{}", CODEC, "damaged"),
        (frame_that_claims(MAX_BYTES + 1), CODEC, "larger than any turn"),
        (compress(b"{}"), 0, "codec 0"),
    ],
)
def test_a_bad_frame_has_no_head(data: bytes, codec: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        head(data, codec, 1)


def test_a_small_turn_is_stored_in_less_than_half_of_what_zstd_alone_needs() -> None:
    body = a_turn().body + orjson.dumps({"temperature": 1.0, "tool_choice": "auto", "truncation": "disabled"})
    assert len(compress(body)) * 2 < len(zstandard.ZstdCompressor(level=3).compress(body))


@pytest.mark.parametrize("size", [MAX_BYTES + 1, 2**63 - 1])
def test_a_frame_that_claims_to_be_too_large_is_refused_before_it_is_unfolded(size: int) -> None:
    with pytest.raises(ValueError, match="larger than any turn"):
        decompress(frame_that_claims(size), CODEC)


def test_a_frame_that_does_not_say_its_size_is_refused() -> None:
    unsized = zstandard.ZstdCompressor(write_content_size=False).compress(b"x" * 1000)
    with pytest.raises(ValueError, match="damaged"):
        decompress(unsized, CODEC)


@pytest.mark.parametrize("data", [b"", b"{}", compress(b"x" * 1000)[:-3], compress(b"ab" * 500)[4:]])
def test_a_damaged_frame_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="damaged"):
        decompress(data, CODEC)


@pytest.mark.parametrize("unknown", [0, max(SHIPPED) + 1, -1])
def test_a_row_of_an_unknown_codec_is_refused_by_its_number(unknown: int) -> None:
    with pytest.raises(ValueError, match=f"codec {unknown}"):
        decompress(compress(b"{}"), unknown)


async def test_the_table_of_dictionaries_holds_exactly_the_shipped_ones(database_url: str) -> None:
    """A dump can be read without this code, and no release writes with a dictionary that is not there."""
    connection = await asyncpg.connect(database_url)
    found = await connection.fetch("select version, content from dictionaries")
    await connection.close()
    assert {row["version"]: row["content"] for row in found} == SHIPPED
    assert CODEC in SHIPPED
    assert SHIPPED[CODEC] == codec.DICTIONARY
