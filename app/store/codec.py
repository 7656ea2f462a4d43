"""Compress what is stored: zstd with a dictionary that already knows the words of the API.

2.5 to 3 KB of a turn's JSON become about 1.1 KB for some 10 microseconds, which also keeps rows out
of TOAST. The dictionary is trained on made-up turns, never on customers' data
(tests/bench/train_dictionary.py), and each row names the version it was written with.
"""

from pathlib import Path

import zstandard

CODEC = 1
"""The version that new rows are written with."""

MAX_BYTES = 1 << 30
"""No row may unfold to more than this: a damaged header must not take all memory."""

DICTIONARY = (Path(__file__).parent / "dictionary_1.zstd").read_bytes()

_DICT = zstandard.ZstdCompressionDict(DICTIONARY)
# Level 3 is within a few per cent of the best level's size at a tenth of its time. The content's
# size must be in the frame (the default), for the cap to be checked before anything is unfolded.
_COMPRESSOR = zstandard.ZstdCompressor(level=3, dict_data=_DICT, write_checksum=False, write_dict_id=False)
_DECOMPRESSORS = {CODEC: zstandard.ZstdDecompressor(dict_data=_DICT)}


def compress(data: bytes) -> bytes:
    """Not safe to call from several threads at once; the store runs on one event loop."""
    return _COMPRESSOR.compress(data)


def decompress(data: bytes, codec: int) -> bytes:
    """Unfold what `compress` made under the version `codec`.

    Raises:
        ValueError: the row claims an impossible size or an unknown codec, or it is damaged.
    """
    try:
        _check_size(data)
        return _DECOMPRESSORS[codec].decompress(data)
    except (KeyError, zstandard.ZstdError) as error:
        raise _unreadable(error, codec) from error


def head(data: bytes, codec: int, size: int) -> bytes:
    """The first `size` bytes of what `compress` made, or all if it is less; what follows is not unfolded.

    Raises:
        ValueError: as `decompress` says; damage behind these bytes is not seen.
    """
    try:
        wanted = min(size, _check_size(data))
        found = _DECOMPRESSORS[codec].stream_reader(data).read(wanted)
    except (KeyError, zstandard.ZstdError) as error:
        raise _unreadable(error, codec) from error
    if len(found) < wanted:
        raise _unreadable(zstandard.ZstdError("it ends too early"), codec)
    return found


def _check_size(data: bytes) -> int:
    """What the frame says that it unfolds to."""
    size = zstandard.frame_content_size(data)
    if size > MAX_BYTES:
        raise ValueError("stored frame is larger than any turn can be")
    if size < 0:
        raise zstandard.ZstdError("it does not say its size")
    return size


def _unreadable(error: Exception, codec: int) -> ValueError:
    """What is wrong with a row, in words."""
    if isinstance(error, KeyError):
        return ValueError(f"no dictionary for codec {codec}: the row is from a later release")
    return ValueError(f"stored frame is damaged: {error}")
