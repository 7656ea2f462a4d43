"""What lists, lineage and statistics ask of a response: a few columns, terms and words taken out of it."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from fnmatch import fnmatchcase
from typing import Any

MAX_TEXT_BYTES = 200_000
"""What of a response can be found by its words; beyond that it is still read, but not searched. Compounds
count twice, and so does what they are made of: five times this is more than Postgres takes."""

MAX_NAME_CHARS = 512
"""What of a name can be found: an index's entry may have 2,704 bytes, and upstreams may say anything."""

MAX_COUNT = 1 << 40
"""No response took more tokens, nor more than a thousand dollars: a day's sums have to fit their columns."""

NANOS = 1_000_000_000

_STEP = math.log(1.1)
MAX_STEP = 260
"""1.1 to that power is longer in milliseconds than any response may take."""

# Where an item has words for people. Whatever is encoded (images, files, encrypted content) is elsewhere.
_WORDS = frozenset(
    {
        "text",
        "refusal",
        "transcript",
        "arguments",
        "input",
        "output",
        "query",
        "queries",
        "code",
        "logs",
        "error",
    }
)
_WITHIN = frozenset(
    {"content", "summary", "output", "action", "outputs", "annotations", "results", "operation"}
)


class Term(IntEnum):
    """What kind of term a response can be found by."""

    TOOL = 1
    METADATA = 2


@dataclass(frozen=True, slots=True)
class Price:
    """What a model costs where its upstream does not say: dollars for a million tokens."""

    input: float
    output: float
    cached_input: float | None = None
    """As `input` where it is not given."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What a response took."""

    input_tokens: int = 0
    cached_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0
    cost_nanos: int | None = None


def usage_of(body: Mapping[str, Any], price: Price | None) -> Usage:
    """What was counted; the cost as the upstream said it, else by the price, else unknown."""
    usage = body.get("usage")
    if not isinstance(usage, dict):
        return Usage()
    taken, given = _count(usage.get("input_tokens")), _count(usage.get("output_tokens"))
    cached = min(_detail(usage, "input_tokens_details", "cached_tokens"), taken)
    cost = _dollars(usage.get("cost"))
    if cost is None and price is not None:
        cost = sum(priced(usage, price))
    return Usage(
        taken,
        cached,
        given,
        _detail(usage, "output_tokens_details", "reasoning_tokens"),
        None if cost is None else min(round(cost * NANOS), MAX_COUNT),
    )


def priced(usage: Mapping[str, Any], price: Price) -> tuple[float, float]:
    """What a response's input and its output come to, in dollars."""
    taken, given = _count(usage.get("input_tokens")), _count(usage.get("output_tokens"))
    cached = min(_detail(usage, "input_tokens_details", "cached_tokens"), taken)
    cached_price = price.input if price.cached_input is None else price.cached_input
    of_input = ((taken - cached) * price.input + cached * cached_price) / 1_000_000
    return of_input, given * price.output / 1_000_000


def price_of(model: str, prices: Mapping[str, Price]) -> Price | None:
    """The price of the first pattern that the model matches."""
    return next((price for pattern, price in prices.items() if fnmatchcase(model, pattern)), None)


def tools_called(output: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """The names of functions, and for tools of the provider the word before `_call`."""
    for item in output:
        kind = item.get("type")
        if isinstance(kind, str) and kind.endswith("_call"):
            name = item.get("name")
            yield name if isinstance(name, str) and name else kind.removesuffix("_call")


def terms_of(body: Mapping[str, Any], output: Sequence[Mapping[str, Any]]) -> set[tuple[Term, str, str]]:
    """Every tool that it called, and every pair of its metadata."""
    metadata = body.get("metadata")
    pairs = metadata.items() if isinstance(metadata, dict) else ()
    tools = {(Term.TOOL, name[:MAX_NAME_CHARS], "") for name in tools_called(output)}
    return tools | {(Term.METADATA, key, value) for key, value in pairs if isinstance(value, str)}


def text_of(items: Sequence[Mapping[str, Any]]) -> str:
    """All words of the items, in their order, up to `MAX_TEXT_BYTES`."""
    pieces, left = list[str](), MAX_TEXT_BYTES
    for item in items:
        for piece in _texts(item):
            encoded = piece[:left].encode(errors="ignore")[:left]
            pieces.append(encoded.decode(errors="ignore"))
            left -= len(encoded) + 1
            if left <= 0:
                return "\n".join(pieces)
    return "\n".join(pieces)


def duration_step(duration_ms: int) -> int:
    """The step of a scale on which each is a tenth longer than the one before."""
    return min(int(math.log(duration_ms) / _STEP) + 1, MAX_STEP) if duration_ms >= 1 else 0


def step_ms(step: int) -> float:
    """The middle of a step, so that no duration in it is more than a twentieth off."""
    return math.exp((step - 0.5) * _STEP) if step else 0.0


def percentile(counts: Mapping[int, int], share: float) -> float | None:
    """The duration in milliseconds that this share of responses did not exceed; None of no responses."""
    rank, seen = share * sum(counts.values()), 0
    for step in sorted(counts):
        seen += counts[step]
        if seen >= rank and counts[step]:
            return step_ms(step)
    return None


def _texts(item: Mapping[str, Any]) -> Iterator[str]:
    for key, value in item.items():
        if isinstance(value, str):
            # A bare content is a message's whole text.
            if (key in _WORDS or key == "content") and not value.startswith("data:"):
                yield value
        elif key in _WITHIN or key in _WORDS:
            yield from _nested(value, is_text=key in _WORDS)


def _nested(value: Any, *, is_text: bool) -> Iterator[str]:
    if isinstance(value, dict):
        yield from _texts(value)
    elif isinstance(value, list):
        for each in value:
            if isinstance(each, str) and is_text:
                yield each
            elif isinstance(each, dict):
                yield from _texts(each)


def _count(value: Any) -> int:
    """A count that a column can hold, whatever an upstream has reported."""
    return int(min(value, MAX_COUNT)) if isinstance(value, int | float) and value > 0 else 0


def _detail(usage: Mapping[str, Any], field: str, name: str) -> int:
    details = usage.get(field)
    return _count(details.get(name)) if isinstance(details, dict) else 0


def _dollars(value: Any) -> float | None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and 0 <= value < MAX_COUNT else None
