"""What a stream of deltas amounts to, with the protocol's rules checked on the way."""

from collections.abc import AsyncIterable
from dataclasses import dataclass, field
from typing import Any

from app.providers.base import (
    AnnotationAdded,
    Delta,
    Finished,
    InputDelta,
    ItemFinished,
    ItemStarted,
    PartStarted,
    Progress,
    Started,
    TextDelta,
)


@dataclass(slots=True)
class HeardItem:
    """One output item: what deltas said of it, and the upstream's final form."""

    head: dict[str, Any]
    parts: dict[int, str] = field(default_factory=dict[int, str])
    texts: dict[tuple[int, str], str] = field(default_factory=dict[tuple[int, str], str])
    logprobs: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    annotations: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    input: str = ""
    progress: list[Progress] = field(default_factory=list[Progress])
    is_finished: bool = False
    final: dict[str, Any] | None = None

    @property
    def kind(self) -> str:
        return self.head["type"]

    @property
    def said(self) -> list[tuple[str, str]]:
        """Kind and text of each part, from deltas or else from the final form."""
        if self.texts:
            return [(kind, text) for (_, kind), text in self.texts.items()]
        parts = [*(self.final or {}).get("summary", ()), *(self.final or {}).get("content", ())]
        return [(part["type"], part.get("text") or part.get("refusal", "")) for part in parts]

    @property
    def called(self) -> tuple[str, str]:
        """Name and arguments of a call."""
        return self.head["name"], self.input or (self.final or {}).get("arguments", "")


@dataclass(slots=True)
class Outcome:
    """Everything that was reported."""

    deltas: list[Delta] = field(default_factory=list[Delta])
    items: dict[int, HeardItem] = field(default_factory=dict[int, HeardItem])
    finished: Finished | None = None

    def add(self, delta: Delta) -> None:
        """Take one delta in, holding it to the protocol."""
        assert isinstance(delta, Started) == (not self.deltas), "Started comes first and once"
        assert self.finished is None, "nothing follows Finished"
        self.deltas.append(delta)
        match delta:
            case Started():
                pass
            case Finished():
                self.finished = delta
            case ItemStarted():
                assert delta.slot not in self.items, "an item starts once"
                self.items[delta.slot] = HeardItem(delta.item)
            case ItemFinished():
                self._finish(delta)
            case _:
                self._open(delta.slot).hear(delta)

    @property
    def started(self) -> Started:
        first = self.deltas[0]
        assert isinstance(first, Started)
        return first

    @property
    def end(self) -> Finished:
        assert self.finished is not None
        return self.finished

    @property
    def in_order(self) -> list[HeardItem]:
        return list(self.items.values())

    def _open(self, slot: int) -> "_Hearing":
        item = self.items[slot]
        assert not item.is_finished, "a finished item is finished"
        return _Hearing(item)

    def _finish(self, delta: ItemFinished) -> None:
        if delta.slot not in self.items:
            assert delta.item is not None, "an item that never started is finished whole"
            self.items[delta.slot] = HeardItem(delta.item)
        item = self.items[delta.slot]
        assert not item.is_finished
        item.is_finished, item.final = True, delta.item


@dataclass(slots=True)
class _Hearing:
    item: HeardItem

    def hear(self, delta: Delta) -> None:
        match delta:
            case PartStarted():
                self.item.parts[delta.index] = delta.kind
                self.item.texts[delta.index, delta.kind] = ""
            case TextDelta():
                self.item.texts[delta.index, self.item.parts[delta.index]] += delta.text
                self.item.logprobs += delta.logprobs
            case AnnotationAdded():
                assert self.item.parts[delta.index] == "output_text"
                self.item.annotations.append(delta.annotation)
            case InputDelta():
                self.item.input += delta.text
            case Progress():
                self.item.progress.append(delta)
            case _:
                pass


async def outcome_of(deltas: AsyncIterable[Delta]) -> Outcome:
    outcome = Outcome()
    async for delta in deltas:
        outcome.add(delta)
    return outcome
