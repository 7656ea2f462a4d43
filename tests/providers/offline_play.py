"""Contexts for the offline model, what it says to them, and whether it keeps the protocol."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from app.domain.context import Context
from app.providers.base import (
    Delta,
    Finished,
    InputDelta,
    ItemFinished,
    ItemStarted,
    PartFinished,
    PartStarted,
    Started,
    TextDelta,
)
from app.providers.offline import Offline

Item = dict[str, Any]

WEATHER: Item = {
    "type": "function",
    "name": "get_weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "unit": {"enum": ["celsius", "fahrenheit"]}},
        "required": ["city", "unit"],
        "additionalProperties": False,
    },
}
CLOCK: Item = {
    "type": "function",
    "name": "now",
    "description": "Tell the local time",
    "parameters": {"type": "object", "properties": {}},
}
SHELL: Item = {"type": "custom", "name": "runShell", "description": "Run a command"}


def message(role: str, text: str) -> Item:
    kind = "output_text" if role == "assistant" else "input_text"
    return {"type": "message", "role": role, "content": [{"type": kind, "text": text}]}


def user(text: str) -> Item:
    return message("user", text)


def output_of(call: Mapping[str, Any], text: Any) -> Item:
    return {"type": f"{call['type']}_output", "call_id": call["call_id"], "output": text}


def context(*items: Item, is_streamed: bool = True, **params: Any) -> Context:
    return Context("offline", tuple(orjson.dumps(item) for item in items), params, is_streamed=is_streamed)


async def play(asked: Context) -> list[Delta]:
    return [delta async for delta in Offline().stream(asked)]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a stream, once it is known to be well formed."""

    items: Sequence[Item]
    finished: Finished
    words: Sequence[str]

    @property
    def text(self) -> str:
        """The text, refusal, summary or call input of the last item."""
        return text_of(self.items[-1])

    @property
    def calls(self) -> list[Item]:
        return [item for item in self.items if item["type"].endswith("_call")]


async def outcome(*items: Item, **params: Any) -> Outcome:
    """Ask twice, streamed and whole, and insist on well-formed deltas that say the same."""
    streamed = folded(await play(context(*items, **params)))
    whole = await play(context(*items, is_streamed=False, **params))
    assert [type(delta) for delta in whole] == [Started, *[ItemFinished] * len(streamed.items), Finished]
    assert [delta.item for delta in whole if isinstance(delta, ItemFinished)] == streamed.items
    assert whole[-1] == streamed.finished
    return streamed


def folded(deltas: Sequence[Delta]) -> Outcome:
    """Check the order of a streamed answer and that its deltas add up to its items."""
    assert isinstance(deltas[0], Started)
    finished = deltas[-1]
    assert isinstance(finished, Finished)
    items: list[Item] = []
    words: list[str] = []
    rest = list(deltas[1:-1])
    while rest:
        end = next(place for place, delta in enumerate(rest) if isinstance(delta, ItemFinished)) + 1
        items.append(_item(rest[:end], slot=len(items), words=words))
        rest = rest[end:]
    return Outcome(items, finished, words)


def text_of(item: Item) -> str:
    match item["type"]:
        case "message":
            (part,) = item["content"]
            return part["refusal"] if part["type"] == "refusal" else part["text"]
        case "reasoning":
            return item["summary"][0]["text"]
        case _:
            return item["input" if item["type"] == "custom_tool_call" else "arguments"]


def _item(deltas: Sequence[Delta], *, slot: int, words: list[str]) -> Item:
    start, end = deltas[0], deltas[-1]
    assert isinstance(start, ItemStarted)
    assert isinstance(end, ItemFinished)
    assert end.item is not None
    assert end.item.items() >= start.item.items()
    inner = deltas[1:-1]
    if not end.item["type"].endswith("_call"):
        opening, closing = inner[0], inner[-1]
        assert isinstance(opening, PartStarted)
        assert isinstance(closing, PartFinished)
        assert closing.part is not None
        assert opening.kind == closing.part["type"]
        inner = inner[1:-1]
        assert all(isinstance(delta, TextDelta) for delta in inner)
        assert {delta.index for delta in (opening, closing)} == {0}
    said = [delta.text for delta in inner if isinstance(delta, TextDelta | InputDelta)]
    assert len(said) == len(inner)
    assert "".join(said) == text_of(end.item)
    assert all(len(word.split()) == 1 for word in said)
    assert all(delta.slot == slot for delta in deltas if not isinstance(delta, Started | Finished))
    words += said
    return end.item
