"""The one protocol of upstream models: a context goes in, deltas come out.

A provider knows nothing of responses, ids of ours, sequence numbers or storage. It reports small
facts about *slots*; the composer turns them into items and events. A slot is any integer that the
provider uses for one output item, unique within a stream; items appear in the order in which their
slots are first reported.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from app.domain.context import Context


@dataclass(frozen=True, slots=True)
class Started:
    """The upstream has accepted the request. Always the first delta.

    An error raised before it is an HTTP error for the client; one after it ends in `response.failed`.
    """

    model: str | None = None
    """The model that the upstream says it runs, when it is already known."""
    upstream_id: str | None = None


@dataclass(frozen=True, slots=True)
class ItemStarted:
    """An output item begins. `item` has its `type` and fixed fields (role, call_id, name, …) and,
    where the upstream names one, the upstream's own `id`. Content and arguments come later.
    """

    slot: int
    item: dict[str, Any]


@dataclass(frozen=True, slots=True)
class PartStarted:
    """A part of a message or reasoning item begins; `kind` decides the names of its events."""

    slot: int
    index: int
    kind: Literal["output_text", "refusal", "reasoning_text", "summary_text"]


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More text of the part `index` of a slot; `logprobs` in the API's shape."""

    slot: int
    index: int
    text: str
    logprobs: Sequence[dict[str, Any]] = ()


@dataclass(frozen=True, slots=True)
class AnnotationAdded:
    """A citation inside the text part `index` of a slot."""

    slot: int
    index: int
    annotation: dict[str, Any]


@dataclass(frozen=True, slots=True)
class PartFinished:
    """A part ends. `part` is the upstream's final form of it, where it gives one."""

    slot: int
    index: int
    part: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class InputDelta:
    """More of a call's input: `arguments` of function and MCP calls, `input` of custom tool calls,
    `code` of code interpreter calls. The composer knows which by the item's type.
    """

    slot: int
    text: str


@dataclass(frozen=True, slots=True)
class Progress:
    """A hosted tool's event that carries no state of ours, handed on under its own name.

    `fields` holds what the event has beside `type`, `item_id`, `output_index` and `sequence_number`.
    """

    slot: int
    event: str
    fields: dict[str, Any] = field(default_factory=dict[str, Any])


@dataclass(frozen=True, slots=True)
class ItemFinished:
    """An output item ends. `item` is the upstream's final form, where it gives one; else what was
    reported so far is the item. A slot that was never started may be finished at once.
    """

    slot: int
    item: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Finished:
    """The generation ended and its outcome is known. Always the last delta.

    A stream that ends without it was cut: adapters raise `UpstreamError` instead of inventing one.
    """

    status: Literal["completed", "incomplete", "failed"]
    usage: Mapping[str, Any] | None = None
    """In the API's shape; extra keys (`cost`, `is_byok`, …) are kept and given back."""
    reason: str | None = None
    """Of `incomplete_details`: `max_output_tokens` or `content_filter`."""
    error: Mapping[str, Any] | None = None
    """`code` and `message` of a failed generation."""
    echo: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """Fields of the response object that the upstream decided: `model`, `service_tier`, …"""


Delta = (
    Started
    | ItemStarted
    | PartStarted
    | TextDelta
    | AnnotationAdded
    | PartFinished
    | InputDelta
    | Progress
    | ItemFinished
    | Finished
)


class Provider(Protocol):
    """An adapter to one upstream."""

    @property
    def name(self) -> str:
        """The upstream's name in the settings."""
        ...

    def refuse(self, params: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> None:
        """Raise `InvalidRequest`, naming it, for anything this upstream's protocol cannot carry (law L5).

        `items` are the new input items. Values that change nothing (the documented default) pass.
        """
        ...

    def stream(self, context: Context) -> AsyncGenerator[Delta, None]:
        """Ask the upstream and report what it says.

        Closing the generator closes the upstream's connection at once.

        Raises:
            UpstreamError: the upstream refused, failed or vanished.
            InvalidRequest: something in the history cannot be carried by this protocol.
        """
        ...

    async def models(self) -> Sequence[str]:
        """The names that this upstream is known to serve without asking anyone else's secrets."""
        ...

    async def close(self) -> None:
        """Give back connections. Idempotent."""
        ...
