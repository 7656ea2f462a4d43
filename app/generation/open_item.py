"""An output item while it is being made: what has been heard of it, and what it becomes."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson


class PartEvents(NamedTuple):
    """The names under which one kind of part is streamed (surface notes §8.2)."""

    added: str
    delta: str
    done: str
    part_done: str
    text_key: str
    index_key: str


PART_EVENTS = {
    "output_text": PartEvents(
        "response.content_part.added",
        "response.output_text.delta",
        "response.output_text.done",
        "response.content_part.done",
        "text",
        "content_index",
    ),
    "refusal": PartEvents(
        "response.content_part.added",
        "response.refusal.delta",
        "response.refusal.done",
        "response.content_part.done",
        "refusal",
        "content_index",
    ),
    "reasoning_text": PartEvents(
        "response.content_part.added",
        "response.reasoning_text.delta",
        "response.reasoning_text.done",
        "response.content_part.done",
        "text",
        "content_index",
    ),
    "summary_text": PartEvents(
        "response.reasoning_summary_part.added",
        "response.reasoning_summary_text.delta",
        "response.reasoning_summary_text.done",
        "response.reasoning_summary_part.done",
        "text",
        "summary_index",
    ),
}


class InputEvents(NamedTuple):
    """Where the input of one kind of call is kept, and under which names it is streamed."""

    field: str
    delta: str
    done: str


INPUT_EVENTS = {
    "function_call": InputEvents(
        "arguments", "response.function_call_arguments.delta", "response.function_call_arguments.done"
    ),
    "custom_tool_call": InputEvents(
        "input", "response.custom_tool_call_input.delta", "response.custom_tool_call_input.done"
    ),
    "mcp_call": InputEvents(
        "arguments", "response.mcp_call_arguments.delta", "response.mcp_call_arguments.done"
    ),
    "code_interpreter_call": InputEvents(
        "code", "response.code_interpreter_call_code.delta", "response.code_interpreter_call_code.done"
    ),
}

_NO_STATUS = frozenset({"reasoning", "compaction", "mcp_list_tools", "mcp_approval_request"})
_PARTED = frozenset({"message", "reasoning"})
_SAID_LATER = frozenset({"content", "summary", "arguments", "input", "code"})
_OMITTED_WHEN_NULL = ("phase", "encrypted_content", "content")
DEFAULT_PART = {"reasoning": "reasoning_text"}
"""What text without a declared part belongs to; a message's is `output_text`."""


class OpenPart:
    """One part of a message or reasoning item."""

    __slots__ = ("annotations", "events", "final", "head", "is_done", "kind", "logprobs", "texts")

    def __init__(self, kind: str, head: bytes) -> None:
        self.kind = kind
        self.events = PART_EVENTS[kind]
        self.head = head
        self.texts: list[str] = []
        self.logprobs: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []
        self.is_done = False
        self.final: dict[str, Any] = {}

    def zero(self) -> dict[str, Any]:
        """The part as it begins: no text yet."""
        return self._with_text("")

    def missing(self, final: Mapping[str, Any] | None) -> str:
        """What the final form says beyond the deltas, so that deltas always add up to it."""
        whole, said = str((final or {}).get(self.events.text_key) or ""), "".join(self.texts)
        return whole[len(said) :] if len(whole) > len(said) and whole.startswith(said) else ""

    def finish(self, final: Mapping[str, Any] | None) -> None:
        """Fix the part: the upstream's own final form where it gave one, else what was heard."""
        self.is_done = True
        heard = self._with_text("".join(self.texts))
        if self.kind == "output_text":
            heard |= {"annotations": self.annotations, "logprobs": self.logprobs}
        given = {key: value for key, value in (final or {}).items() if value is not None}
        self.final = heard | given

    def done_fields(self) -> bytes:
        """The fields of the event that repeats the whole text."""
        key = self.events.text_key
        said = b',"%s":%s' % (key.encode(), orjson.dumps(self.final[key]))
        if self.kind == "output_text":
            said += b',"logprobs":' + orjson.dumps(self.final["logprobs"])
        return said

    def _with_text(self, text: str) -> dict[str, Any]:
        return whole_part({"type": self.kind, self.events.text_key: text})


class OpenItem:
    """One output item."""

    __slots__ = (
        "_fixed", "current", "final", "head", "id", "index_head", "input", "inputs", "is_done",
        "is_input_done", "json", "kind", "name", "parts", "upstream_id",
    )  # fmt: skip

    def __init__(self, fixed: Mapping[str, Any], output_index: int, item_id: str) -> None:
        self._fixed = {key: value for key, value in fixed.items() if key != "id"}
        self.id = item_id
        self.upstream_id: str = fixed.get("id") or ""
        self.kind: str = fixed["type"]
        self.name: str = fixed.get("name") or ""
        self.index_head = b',"output_index":%d' % output_index
        self.head = b',"item_id":"%s"%s' % (item_id.encode(), self.index_head)
        self.parts: list[OpenPart] = []
        self.current: dict[int, OpenPart] = {}
        self.input = INPUT_EVENTS.get(self.kind)
        self.inputs: list[str] = []
        self.is_input_done = False
        self.is_done = False
        self.final: dict[str, Any] = {}
        self.json = b""

    def skeleton(self) -> dict[str, Any]:
        """The item as it begins: in progress, with zero values (behaviour 93)."""
        item: dict[str, Any] = {"id": self.id} | self._fixed
        if self.kind not in _NO_STATUS:
            item["status"] = "in_progress"
        if self.kind == "message":
            item |= {"role": "assistant", "content": []}
        elif self.kind == "reasoning":
            item["summary"] = []
            item.pop("content", None)
        elif self.input:
            item[self.input.field] = ""
        return _without_nulls(item)

    def open_part(self, index: int, kind: str) -> OpenPart:
        """Begin a part. The provider's `index` is only its name; summaries and content are counted apart."""
        key = PART_EVENTS[kind].index_key
        number = len(self.parts_in(key))
        part = OpenPart(kind, self.head + b',"%s":%d' % (key.encode(), number))
        self.parts.append(part)
        self.current[index] = part
        return part

    def parts_in(self, index_key: str) -> list[OpenPart]:
        """The parts that are counted together: those of the content, or those of the summary."""
        return [part for part in self.parts if part.events.index_key == index_key]

    def missing_input(self, final: Mapping[str, Any] | None) -> str:
        """What the final form of a call's input says beyond the deltas; no arguments at all are `{}`."""
        said, whole = "".join(self.inputs), self._final_input(final)
        return whole[len(said) :] if whole.startswith(said) else ""

    def finish(self, given: Mapping[str, Any] | None, *, is_cut: bool) -> None:
        """Fix the item, under our id: the upstream's final form where it gave one, else what was heard."""
        self.is_done = True
        item: dict[str, Any] = {"id": self.id} | self._fixed
        if given:
            self.upstream_id = given.get("id") or self.upstream_id
            item |= {key: value for key, value in given.items() if key != "id"}
        if self.kind in _PARTED:
            item |= self._contents(given)
        elif self.input:
            item[self.input.field] = self._final_input(given)
        if self.kind not in _NO_STATUS and (given or {}).get("status") in {None, "in_progress"}:
            item["status"] = "incomplete" if is_cut else "completed"
        self.final = _without_nulls(item)
        self.json = orjson.dumps(self.final)

    def _final_input(self, given: Mapping[str, Any] | None) -> str:
        if self.input is None:
            return ""
        whole = str((given or {}).get(self.input.field) or "") or "".join(self.inputs)
        return whole or ("{}" if self.kind == "function_call" else "")

    def _contents(self, given: Mapping[str, Any] | None) -> dict[str, Any]:
        if self.parts:
            content = [part.final for part in self.parts_in("content_index")]
            summary = [part.final for part in self.parts_in("summary_index")]
        else:
            content = [whole_part(part) for part in (given or {}).get("content") or ()]
            summary = list((given or {}).get("summary") or ())
        if self.kind == "message":
            return {"role": "assistant", "content": content}
        return {"summary": summary} | ({"content": content} if content else {})


def final_parts(given: Mapping[str, Any]) -> list[tuple[str, int, dict[str, Any]]]:
    """The parts of a finished item: how they are counted, their number, and themselves."""
    counted = (("summary_index", "summary"), ("content_index", "content"))
    return [
        (index_key, number, part)
        for index_key, field in counted
        for number, part in enumerate(given.get(field) or ())
    ]


def head_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """A finished item without what its parts and input will say."""
    return {key: value for key, value in given.items() if key not in _SAID_LATER}


def whole_part(part: Mapping[str, Any]) -> dict[str, Any]:
    """A part with every key that readers rely on; loose gateways leave some out."""
    if part.get("type") != "output_text":
        return dict(part)
    given = {key: value for key, value in part.items() if value is not None}
    return {"type": "output_text", "text": "", "annotations": [], "logprobs": []} | given


def _without_nulls(item: dict[str, Any]) -> dict[str, Any]:
    """Leave out what the published schema wants absent rather than null (surface notes §5.2)."""
    for key in _OMITTED_WHEN_NULL:
        if key in item and item[key] is None:
            del item[key]
    return item
