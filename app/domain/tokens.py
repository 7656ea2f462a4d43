"""How many tokens something has, as an estimate: a quarter of its bytes of JSON, rounded up.

Only an upstream knows its tokenizer, and a count by another one would cost more than it is worth.
Common tokenizers make a token of about four bytes of English prose. JSON's own signs make the estimate
of short items somewhat high; dense code, and scripts with many bytes a character, make it low.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from app.domain import prompts

BYTES_PER_TOKEN = 4

INLINE_TOKENS = 1_000
"""What one image, file or recording counts whose bytes stand in an item as base64, whatever its size.

A picture of 1024 by 1024 pixels costs 765 tokens where it is cut into tiles of 512 and 1,024 where it is
cut into patches of 32. What a file costs depends on its text, which is not looked at.
"""

_MARKS = (b";base64,", b'"base64"', b'"file_data"', b'"input_audio"', b'"image_generation_call"')
"""Without one of these there are no inline data. A quote inside a string is escaped, so text that merely
speaks of such a key is not taken for it.
"""

_URLS = ("image_url", "file_url", "url")


def estimate(blob: bytes) -> int:
    """The estimated tokens of a blob of items (JSON objects joined by commas).

    Decodes the blob only where it may hold inline data, each of which counts `INLINE_TOKENS` instead
    of its bytes. Encrypted reasoning counts by its bytes.
    """
    return -(-size(blob) // BYTES_PER_TOKEN)


def size(blob: bytes) -> int:
    """The bytes by which a blob is estimated: its length, but for inline data.

    Exact under joining: two blobs and their comma have the sum of their sizes and one.
    """
    if not any(mark in blob for mark in _MARKS):
        return len(blob)
    # Base64 has one byte a character, and nothing in it is escaped.
    return len(blob) + sum(INLINE_TOKENS * BYTES_PER_TOKEN - len(data) for data in _inline(blob))


def estimate_request(params: Mapping[str, Any]) -> int:
    """The estimated tokens that the model reads beside the items: the instructions, what a prompt says,
    the tools, and the format of the text where it is a schema.
    """
    text_format = (params.get("text") or {}).get("format") or {}
    read = (
        params.get("instructions"),
        prompts.said(params),
        params.get("tools"),
        text_format if text_format.get("type") == "json_schema" else None,
    )
    return -(-sum(size(orjson.dumps(each)) for each in read if each) // BYTES_PER_TOKEN)


def _inline(blob: bytes) -> Iterator[str]:
    """All inline data in some JSON values that are joined by commas."""
    waiting = [orjson.loads(b"[%b]" % blob)]  # a list instead of recursion: clients decide on the depth
    while waiting:
        part = waiting.pop()
        if isinstance(part, dict):
            yield from (data for data in _data_of(part) if isinstance(data, str) and data)
        inner = part.values() if isinstance(part, dict) else part
        waiting += (each for each in inner if isinstance(each, dict | list))


def _data_of(part: Mapping[str, Any]) -> Iterator[Any]:
    """Where one object keeps its own inline data; not every value is one, nor a string."""
    yield part.get("file_data")
    yield from (url for key in _URLS if _is_data_url(url := part.get(key)))
    if isinstance(audio := part.get("input_audio"), dict):
        yield audio.get("data")
    if part.get("type") == "base64":  # the archive of a skill
        yield part.get("data")
    if part.get("type") == "image_generation_call":
        yield part.get("result")


def _is_data_url(value: Any) -> bool:
    return isinstance(value, str) and value.startswith("data:") and ";base64," in value
