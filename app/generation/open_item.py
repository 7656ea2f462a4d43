"""An output item while it is being made: what has been heard of it, and what it becomes."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import orjson

from app.providers.base import Progress


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

PARTS_OF = {"message": ("output_text", "refusal"), "reasoning": ("reasoning_text", "summary_text")}
"""Which parts an item may have; text without a declared part belongs to one of the first kind."""

_NO_STATUS = frozenset({"reasoning", "compaction", "mcp_list_tools", "mcp_approval_request"})
_CUT_STATUS = {
    "web_search_call": "failed",
    "image_generation_call": "failed",
    "apply_patch_call": "in_progress",
}
"""What a call is when it was cut; these types have no `incomplete` (reference: "Items")."""
_OMITTED_WHEN_NULL = ("phase", "encrypted_content")


class OpenPart:
    """One part of a message or reasoning item."""

    __slots__ = (
        "annotations", "events", "final", "head", "is_done", "kind", "logprobs", "output_index", "texts",
    )  # fmt: skip

    def __init__(self, kind: str, head: bytes, output_index: int) -> None:
        self.kind = kind
        self.output_index = output_index
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
        return whole[len(said) :] if whole.startswith(said) else ""

    def missing_annotations(self, final: Mapping[str, Any] | None) -> list[dict[str, Any]]:
        """The citations that only the final form has."""
        whole: list[dict[str, Any]] = list((final or {}).get("annotations") or ())
        said = len(self.annotations)
        is_more = self.kind == "output_text" and whole[:said] == self.annotations
        return whole[said:] if is_more else []

    def finish(self, final: Mapping[str, Any] | None) -> None:
        """Fix the part: what was heard, and what else the upstream's own final form tells.

        Where that form contradicts what was heard, what was heard stands: it cannot be unsaid.
        """
        self.is_done = True
        heard = self._with_text("".join(self.texts))
        if self.kind == "output_text":
            heard |= {"annotations": self.annotations, "logprobs": self.logprobs}
        said = {"type", self.events.text_key, "annotations"}
        told = {key: value for key, value in (final or {}).items() if key not in said and value}
        self.final = heard | told

    def done_fields(self) -> bytes:
        """The fields of the event that repeats the whole text."""
        key = self.events.text_key
        said = b',"%s":%s' % (key.encode(), orjson.dumps(self.final[key]))
        if self.kind == "output_text":
            said += b',"logprobs":' + orjson.dumps(self.final["logprobs"])
        return said

    def _with_text(self, text: str) -> dict[str, Any]:
        """The part with every key that readers rely on; loose gateways leave some out."""
        if self.kind == "output_text":
            return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        return {"type": self.kind, self.events.text_key: text}


class OpenItem:
    """One output item."""

    __slots__ = (
        "_fixed", "current", "final", "head", "held", "id", "index_head", "input", "inputs",
        "is_done", "is_input_done", "json", "kind", "name", "output_index", "parts", "upstream_id",
    )  # fmt: skip

    def __init__(self, fixed: Mapping[str, Any], output_index: int, item_id: str) -> None:
        self.kind: str = fixed["type"]
        self._fixed = head_of(fixed)
        self.id = item_id
        self.upstream_id: str = fixed.get("id") or ""
        self.name: str = fixed.get("name") or ""
        self.output_index = output_index
        self.index_head = b',"output_index":%d' % output_index
        self.head = b',"item_id":"%s"%s' % (item_id.encode(), self.index_head)
        self.parts: list[OpenPart] = []
        self.current: dict[int, OpenPart] = {}
        self.input = INPUT_EVENTS.get(self.kind)
        self.inputs: list[str] = []
        self.is_input_done = False
        self.held: list[Progress] = []
        """What may be said only after the input."""
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
        elif self.input:
            item[self.input.field] = ""
        return _without_nulls(item)

    def open_part(self, index: int, kind: str) -> OpenPart:
        """Begin a part. The provider's `index` is only its name; summaries and content are counted apart."""
        key = PART_EVENTS[kind].index_key
        number = len(self.parts_like(kind))
        part = OpenPart(kind, self.head + b',"%s":%d' % (key.encode(), number), self.output_index)
        self.parts.append(part)
        self.current[index] = part
        return part

    def parts_like(self, kind: str) -> list[OpenPart]:
        """The parts that are counted with this kind: those of the content, or those of the summary."""
        key = PART_EVENTS[kind].index_key
        return [part for part in self.parts if part.events.index_key == key]

    def missing_input(self, final: Mapping[str, Any] | None) -> str:
        """What the final form of a call's input says beyond the deltas; no arguments at all are `{}`."""
        said = "".join(self.inputs)
        whole = str((final or {}).get(self.input.field) or "") if self.input else ""
        if not (said or whole) and self.kind == "function_call":
            return "{}"
        return whole[len(said) :] if whole.startswith(said) else ""

    def finish(self, given: Mapping[str, Any] | None, *, is_cut: bool) -> None:
        """Fix the item, under our id: what was heard, and what else the upstream's final form tells.

        Its parts and its input must be closed.
        """
        self.is_done = True
        item: dict[str, Any] = {"id": self.id} | self._fixed
        if given:
            self.upstream_id = given.get("id") or self.upstream_id
            item |= head_of(given) | {"type": self.kind}
        if self.kind in PARTS_OF:
            item |= self._contents()
        elif self.input:
            item[self.input.field] = "".join(self.inputs)
        self._settle_status(item, is_cut=is_cut)
        self.final = _without_nulls(item)
        self.json = orjson.dumps(self.final)

    def _settle_status(self, item: dict[str, Any], *, is_cut: bool) -> None:
        """Say how the item ended, unless the upstream did; types without a status get none."""
        if self.kind in _NO_STATUS and item.get("status") is None:
            item.pop("status", None)
        elif item.get("status") in {None, "in_progress"}:
            item["status"] = _CUT_STATUS.get(self.kind, "incomplete") if is_cut else "completed"

    def _contents(self) -> dict[str, Any]:
        content = [part.final for part in self.parts_like("output_text")]
        if self.kind == "message":
            return {"role": "assistant", "content": content}
        summary = [part.final for part in self.parts_like("summary_text")]
        return {"summary": summary} | ({"content": content} if content else {})


def final_parts(kind: str, given: Mapping[str, Any]) -> list[tuple[int, dict[str, Any]]]:
    """The parts of a finished item, each with its number among those that are counted with it."""
    found: list[tuple[int, dict[str, Any]]] = []
    for index_key, field in (("summary_index", "summary"), ("content_index", "content")):
        kinds = [each for each in PARTS_OF.get(kind, ()) if PART_EVENTS[each].index_key == index_key]
        parts = [{"type": kinds[0], **part} for part in given.get(field) or ()] if kinds else []
        found += enumerate(part for part in parts if part["type"] in kinds)
    return found


def head_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """An upstream's item without its id, and without what its parts and its input say."""
    kind = given["type"]
    said = {"id"}
    if kind in PARTS_OF:
        said |= {"content", "summary"}
    elif kind in INPUT_EVENTS:
        said.add(INPUT_EVENTS[kind].field)
    return {key: value for key, value in given.items() if key not in said}


def _without_nulls(item: dict[str, Any]) -> dict[str, Any]:
    """Leave out what the published schema wants absent rather than null (surface notes §5.2)."""
    for key in _OMITTED_WHEN_NULL:
        if key in item and item[key] is None:
            del item[key]
    return item
