"""From the stream events of the Responses API to deltas. Pure; no I/O.

Gateways speak the API with gaps: no ids, no `content_part` events, no `output_item.done`, other names of
Open Responses. What is missing is supplied here, so that the composer sees one dialect.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, ClassVar, Literal

from app.providers.base import (
    AnnotationAdded,
    Delta,
    Finished,
    InputDelta,
    ItemFinished,
    ItemStarted,
    PartFinished,
    PartStarted,
    Progress,
    Started,
    TextDelta,
)
from app.providers.upstream_errors import UpstreamErrors

logger = logging.getLogger(__name__)

Event = dict[str, Any]
Handler = Callable[[Any, Event], Iterable[Delta]]
Kind = Literal["output_text", "refusal", "reasoning_text", "summary_text"]

# For each kind of text its event, and the field that numbers its parts.
_TEXT: dict[str, tuple[Kind, str]] = {
    "response.output_text.delta": ("output_text", "content_index"),
    "response.refusal.delta": ("refusal", "content_index"),
    "response.reasoning_text.delta": ("reasoning_text", "content_index"),
    "response.reasoning.delta": ("reasoning_text", "content_index"),
    "response.reasoning_summary_text.delta": ("summary_text", "summary_index"),
}

_PARTS: dict[str, Kind] = {
    "output_text": "output_text",
    "refusal": "refusal",
    "reasoning_text": "reasoning_text",
    "summary_text": "summary_text",
}

_HEADS: dict[Kind, dict[str, Any]] = {
    "output_text": {"type": "message", "role": "assistant"},
    "refusal": {"type": "message", "role": "assistant"},
    "reasoning_text": {"type": "reasoning"},
    "summary_text": {"type": "reasoning"},
}

# They repeat what the deltas say or the finished item will.
_REPEATED = (
    "response.created",
    "response.queued",
    "response.in_progress",
    "response.output_text.done",
    "response.refusal.done",
    "response.reasoning_text.done",
    "response.reasoning.done",
    "response.reasoning_summary_text.done",
    "response.function_call_arguments.done",
    "response.custom_tool_call_input.done",
    "response.mcp_call_arguments.done",
    "response.code_interpreter_call_code.done",
)

_PROGRESS = frozenset(
    f"response.{name}"
    for name in (
        "file_search_call.in_progress",
        "file_search_call.searching",
        "file_search_call.completed",
        "web_search_call.in_progress",
        "web_search_call.searching",
        "web_search_call.completed",
        "code_interpreter_call.in_progress",
        "code_interpreter_call.interpreting",
        "code_interpreter_call.completed",
        "image_generation_call.in_progress",
        "image_generation_call.generating",
        "image_generation_call.partial_image",
        "image_generation_call.completed",
        "mcp_call.in_progress",
        "mcp_call.completed",
        "mcp_call.failed",
        "mcp_list_tools.in_progress",
        "mcp_list_tools.completed",
        "mcp_list_tools.failed",
        "shell_call_command.added",
        "shell_call_command.delta",
        "shell_call_command.done",
        "shell_call_output_content.delta",
        "shell_call_output_content.done",
        "compaction.compacting",
    )
)
"""The events of hosted tools (reference: "Streaming events"). Clients know no others."""

_OF_THE_ENVELOPE = frozenset({"type", "output_index", "sequence_number", "obfuscation"})

_TERMINAL = frozenset({"completed", "incomplete", "failed", "cancelled"})

# The fields of the response object that only the upstream knows.
_DECIDED = (
    "model",
    "service_tier",
    "temperature",
    "top_p",
    "reasoning",
    "moderation",
    "prompt_cache_retention",
    "prompt_cache_options",
    "prompt_cache_diagnostics",
    "access_programs",
    "image",
    "input_transformations",
    "tool_usage",
)


class ResponsesFold:
    """What has been reported of one answer so far."""

    def __init__(self, errors: UpstreamErrors) -> None:
        self.is_finished = False
        self._errors = errors
        self._is_started = False
        self._slots: set[int] = set()
        self._done: set[int] = set()
        self._parts: dict[tuple[int, str, int], Kind] = {}

    def feed(self, event: Event) -> Iterable[Delta]:
        """The deltas of one event.

        Raises:
            UpstreamError: the event is an error.
        """
        name = event.get("type", "")
        text = _TEXT.get(name)
        if text is not None:
            return self._said(event, *text)
        if name == "error":
            raise self._errors.said(event)
        handle = self._handlers.get(name, ResponsesFold._progressed)
        return handle(self, event) if self._is_started else self._first(handle, event)

    def whole(self, response: Mapping[str, Any]) -> Iterator[Delta]:
        """The deltas of an answer that was not streamed.

        Raises:
            UpstreamError: the answer is not a finished response.
        """
        if response.get("type") == "error":
            raise self._errors.said(response)
        status = response.get("status")
        has_output = isinstance(response.get("output"), list)
        if status not in _TERMINAL or (status == "completed" and not has_output):
            raise self._errors.broken(f"the answer is no finished response, its status is {status!r}")
        yield Started(response.get("model"), response.get("id"))
        yield from self._finished({"response": response})

    def _first(self, handle: Handler, event: Event) -> Iterator[Delta]:
        """Open with the facts of the response, whichever event comes first."""
        self._is_started = True
        response = event.get("response") or {}
        yield Started(response.get("model"), response.get("id"))
        yield from handle(self, event)

    def _said(self, event: Event, kind: Kind, numbered_by: str) -> Iterable[Delta]:
        slot, index = event.get("output_index") or 0, event.get(numbered_by) or 0
        delta = TextDelta(slot, _name(numbered_by, index), _delta(event), event.get("logprobs") or ())
        if self._parts.get((slot, numbered_by, index)) == kind:
            return (delta,)
        return (*self._announced(slot, numbered_by, index, kind), delta)

    def _announced(self, slot: int, numbered_by: str, index: int, kind: Kind) -> Iterator[Delta]:
        """Start the part, and the item and the answer, where the upstream did not."""
        if not self._is_started:
            self._is_started = True
            yield Started()
        if slot not in self._slots:
            self._slots.add(slot)
            yield ItemStarted(slot, dict(_HEADS[kind]))
        self._parts[slot, numbered_by, index] = kind
        yield PartStarted(slot, _name(numbered_by, index), kind)

    def _item_started(self, event: Event) -> Iterator[Delta]:
        slot = _slot(event, len(self._slots))
        if slot not in self._slots:
            self._slots.add(slot)
            yield ItemStarted(slot, _item(event))

    def _item_finished(self, event: Event) -> Iterator[Delta]:
        slot = _slot(event, len(self._done))
        yield from self._item_closed(slot, _item(event))

    def _item_closed(self, slot: int, item: dict[str, Any] | None) -> Iterator[Delta]:
        self._done.add(slot)
        yield ItemFinished(slot, item)

    def _part_started(self, event: Event) -> Iterable[Delta]:
        kind = _PARTS.get((event.get("part") or {}).get("type", ""))
        if kind is None:
            return ()
        numbered_by = "summary_index" if kind == "summary_text" else "content_index"
        return self._announced(event.get("output_index") or 0, numbered_by, event.get(numbered_by) or 0, kind)

    def _part_finished(self, event: Event) -> Iterator[Delta]:
        numbered_by = "summary_index" if "summary_index" in event else "content_index"
        slot, index = event.get("output_index") or 0, event.get(numbered_by) or 0
        if self._parts.pop((slot, numbered_by, index), None):
            yield PartFinished(slot, _name(numbered_by, index), event.get("part"))

    def _annotated(self, event: Event) -> Iterator[Delta]:
        slot, index = event.get("output_index") or 0, event.get("content_index") or 0
        if (slot, "content_index", index) not in self._parts:
            yield from self._announced(slot, "content_index", index, "output_text")
        yield AnnotationAdded(slot, index, event.get("annotation") or {})

    def _called(self, event: Event) -> Iterator[Delta]:
        slot = event.get("output_index") or 0
        # Without its item the call has no name yet; the finished item will bring the whole input.
        if slot in self._slots:
            yield InputDelta(slot, _delta(event))

    def _progressed(self, event: Event) -> Iterator[Delta]:
        """Hand on what has no meaning here but belongs to an item; skip the rest."""
        slot, name = event.get("output_index"), event.get("type", "")
        if name in _PROGRESS and slot is not None and slot in self._slots:
            yield Progress(slot, name, {key: event[key] for key in event if _is_told(key)})
        else:
            logger.debug("upstream.event_skipped", extra={"event_type": name})

    def _repeated(self, _event: Event) -> Iterable[Delta]:
        return ()

    def _finished(self, event: Event) -> Iterator[Delta]:
        self.is_finished = True
        response = event.get("response") or {}
        status = _status(response.get("status") or event.get("type", "").rpartition(".")[2])
        if status != "failed":
            yield from self._rest(response.get("output") or (), is_whole=status == "completed")
        yield Finished(
            status,
            usage=response.get("usage"),
            reason=(response.get("incomplete_details") or {}).get("reason"),
            error=self._failure(response.get("error") or {}) if status == "failed" else None,
            echo=_echo(response),
        )

    def _rest(self, output: Iterable[dict[str, Any]], *, is_whole: bool) -> Iterator[Delta]:
        """Finish the items whose `output_item.done` never came.

        An open item of a cut answer that the upstream does not repeat stays open: it is what was cut.
        """
        finals = dict(enumerate(output))
        if len(self._done) < len(finals):
            for slot in sorted(finals.keys() - self._done):
                yield from self._item_closed(slot, _headed(finals[slot]))
        if is_whole:
            for slot in sorted(self._slots - self._done):
                yield from self._item_closed(slot, None)

    def _failure(self, error: Mapping[str, Any]) -> dict[str, Any]:
        """What the client may know of the failure; the upstream's own words go to the log."""
        told = self._errors.said({"error": error})
        logger.warning("upstream.failed", extra={"reason": told.message, "report": told.report})
        code = error.get("code")
        word = self._errors.redacted(code) if isinstance(code, str) else told.code
        return {"code": word or "server_error", "message": told.message}

    _handlers: ClassVar[Mapping[str, Handler]] = {
        "response.output_item.added": _item_started,
        "response.output_item.done": _item_finished,
        "response.content_part.added": _part_started,
        "response.content_part.done": _part_finished,
        "response.reasoning_summary_part.added": _part_started,
        "response.reasoning_summary_part.done": _part_finished,
        "response.output_text.annotation.added": _annotated,
        "response.function_call_arguments.delta": _called,
        "response.custom_tool_call_input.delta": _called,
        "response.mcp_call_arguments.delta": _called,
        "response.code_interpreter_call_code.delta": _called,
        "response.completed": _finished,
        "response.incomplete": _finished,
        "response.failed": _finished,
        "response.cancelled": _finished,
        **dict.fromkeys(_REPEATED, _repeated),
    }


def _name(numbered_by: str, index: int) -> int:
    """The upstream counts summaries and content apart; within one item of ours a name is unique."""
    return -1 - index if numbered_by == "summary_index" else index


def _delta(event: Event) -> str:
    text = event.get("delta")
    return "" if text is None else text


def _is_told(field: str) -> bool:
    """Whether a field of an upstream's event is for our client, who does not know the upstream's ids."""
    return field not in _OF_THE_ENVELOPE and field != "id" and not field.endswith("_id")


def _slot(event: Event, default: int) -> int:
    slot = event.get("output_index")
    return default if slot is None else slot


def _item(event: Event) -> dict[str, Any]:
    item = event.get("item")
    return _headed({} if item is None else item)


def _headed(item: dict[str, Any]) -> dict[str, Any]:
    """The item with what gateways leave out because it is always the same."""
    head = _HEADS["output_text"] if item.get("type", "message") == "message" else {}
    return {**head, **item}


def _status(word: str) -> Literal["completed", "incomplete", "failed"]:
    if word == "incomplete":
        return "incomplete"
    return "failed" if word in {"failed", "cancelled"} else "completed"


def _echo(response: Mapping[str, Any]) -> dict[str, Any]:
    echo = {key: response[key] for key in _DECIDED if response.get(key) is not None}
    if "reasoning" in echo:
        # An object without these two keys is not a `reasoning` object (behaviour 54).
        echo["reasoning"] = {"effort": None, "summary": None, **echo["reasoning"]}
    return echo
