"""The output items of the offline model: as words, as deltas and whole."""

import re
from base64 import b64encode
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from app.providers.base import (
    Delta,
    InputDelta,
    ItemFinished,
    ItemStarted,
    PartFinished,
    PartStarted,
    TextDelta,
)

_WORD = re.compile(r"\s*\S+")


@dataclass(frozen=True, slots=True)
class Call:
    """A call of a function or custom tool."""

    head: dict[str, Any]
    """The item's fields that are known from its start."""
    text: str
    field: Literal["arguments", "input"]
    is_cut: bool = False

    def item(self) -> dict[str, Any]:
        return {**self.head, self.field: self.text, "status": _status(self)}

    def deltas(self, slot: int) -> Iterator[Delta]:
        yield ItemStarted(slot, self.head)
        for word in words(self.text):
            yield InputDelta(slot, word)


@dataclass(frozen=True, slots=True)
class Thought:
    """A reasoning item with one summary."""

    text: str
    is_cut: bool = False

    def item(self) -> dict[str, Any]:
        return {
            "type": "reasoning",
            "summary": [self.part()],
            "encrypted_content": b64encode(self.text.encode()).decode(),
            "status": _status(self),
        }

    def part(self) -> dict[str, Any]:
        return {"type": "summary_text", "text": self.text}

    def deltas(self, slot: int) -> Iterator[Delta]:
        yield ItemStarted(slot, {"type": "reasoning"})
        yield PartStarted(slot, 0, "summary_text")
        for word in words(self.text):
            yield TextDelta(slot, 0, word)


@dataclass(frozen=True, slots=True)
class Message:
    """An assistant message of one part."""

    text: str
    kind: Literal["output_text", "refusal"] = "output_text"
    top_logprobs: int | None = None
    """How many likeliest tokens are listed with each token; None for no log probabilities at all."""
    is_cut: bool = False

    def item(self) -> dict[str, Any]:
        return {"type": "message", "role": "assistant", "content": [self.part()], "status": _status(self)}

    def part(self) -> dict[str, Any]:
        if self.kind == "refusal":
            return {"type": "refusal", "refusal": self.text}
        return {"type": "output_text", "text": self.text, "annotations": [], "logprobs": self._all_logprobs()}

    def deltas(self, slot: int) -> Iterator[Delta]:
        yield ItemStarted(slot, {"type": "message", "role": "assistant"})
        yield PartStarted(slot, 0, self.kind)
        for word in words(self.text):
            yield TextDelta(slot, 0, word, self._logprobs(word))

    def _all_logprobs(self) -> list[dict[str, Any]]:
        if self.top_logprobs is None:
            return []
        return [entry for word in words(self.text) for entry in self._logprobs(word)]

    def _logprobs(self, word: str) -> list[dict[str, Any]]:
        """A deterministic model is certain: the log probability is 0, and there is no second choice."""
        if self.top_logprobs is None:
            return []
        sure = {"token": word, "bytes": list(word.encode()), "logprob": 0.0}
        return [{**sure, "top_logprobs": [sure][: self.top_logprobs]}]


Piece = Call | Thought | Message
"""One output item, known as a whole before its first word is said."""


def words(text: str) -> list[str]:
    """The text's words, each with the space before it."""
    return _WORD.findall(text)


def word_count(pieces: Iterable[Piece]) -> int:
    return sum(len(piece.text.split()) for piece in pieces)


def cut(pieces: Iterable[Piece], limit: int) -> list[Piece]:
    """The pieces up to `limit` words; the one that would pass it is cut there and comes last."""
    kept: list[Piece] = []
    for piece in pieces:
        said = words(piece.text)
        if len(said) > limit:
            return [*kept, replace(piece, text="".join(said[:limit]), is_cut=True)]
        limit -= len(said)
        kept.append(piece)
    return kept


def ending(slot: int, piece: Piece) -> Iterator[Delta]:
    """What follows a piece's last word."""
    if not isinstance(piece, Call):
        yield PartFinished(slot, 0, piece.part())
    yield ItemFinished(slot, piece.item())


def _status(piece: Piece) -> str:
    return "incomplete" if piece.is_cut else "completed"
