"""An upstream that plays a script. It speaks no wire: it stands where an adapter stands, and it watches law L4."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from app.domain.context import Context
from app.providers.base import (
    Delta,
    Finished,
    ItemFinished,
    ItemStarted,
    PartFinished,
    PartStarted,
    Started,
    TextDelta,
)
from app.store.db import Database

Step = Delta | BaseException | asyncio.Event
"""A delta to report, an error to raise, or a signal to wait for."""

USAGE = {"input_tokens": 7, "output_tokens": 2}
DONE = Finished("completed", USAGE)


class ScriptedProvider:
    """A provider that plays its steps once for each context that it is asked with.

    Law L4: no connection to the database may be in use while the upstream is awaited, so before every
    step none must be checked out.
    """

    def __init__(self, steps: Sequence[Step], *, db: Database | None = None, name: str = "scripted") -> None:
        """`db` is whose connections are watched."""
        self.name = name
        self._steps = tuple(steps)
        self._db = db
        self.contexts: list[Context] = []
        self.played = 0
        """How many steps have been asked for."""
        self.is_stalled = asyncio.Event()
        """Set when the script waits for a signal."""
        self.is_closed = False
        """Whether the last stream was given up or played to its end."""

    def refuse(self, params: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> None:
        """Refuse nothing."""

    async def stream(self, context: Context) -> AsyncGenerator[Delta, None]:
        self.contexts.append(context)
        self.is_closed = False
        try:
            for step in self._steps:
                self._watch()
                self.played += 1
                if isinstance(step, BaseException):
                    raise step
                if isinstance(step, asyncio.Event):
                    self.is_stalled.set()
                    await step.wait()
                else:
                    yield step
            self._watch()
        finally:
            self.is_closed = True

    async def models(self) -> Sequence[str]:
        return ["a-model"]

    async def close(self) -> None:
        self.is_closed = True

    def _watch(self) -> None:
        assert self._db is None or self._db.checked_out == 0, "law L4: a connection is in use"


def hello(*words: str) -> list[Delta]:
    """A message that is said word by word, and nothing else: without beginning or end."""
    return [
        ItemStarted(0, {"type": "message", "role": "assistant"}),
        PartStarted(0, 0, "output_text"),
        *(TextDelta(0, 0, word) for word in words or ("Hello", ", world.")),
        PartFinished(0, 0),
        ItemFinished(0),
    ]


def answer(*words: str) -> list[Delta]:
    """A whole answer of one message."""
    return [Started("a-model-1"), *hello(*words), DONE]


def call(call_id: str, name: str = "f", arguments: str = "{}", *, slot: int = 0) -> list[Delta]:
    """A function call of one piece."""
    item = {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments}
    return [ItemFinished(slot, item)]
