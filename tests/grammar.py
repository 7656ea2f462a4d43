"""An independent reading of the event grammar (surface notes §8.3): it shares no code with the composer.

`check` walks the parsed events of one stream, from its first on, and raises `AssertionError` at the first that
may not stand where it stands. What it returns is the response as a client would have put it together
from the events alone: items from their deltas, the rest from the terminal event.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

TERMINAL = {
    "response.completed": {"completed"},
    "response.incomplete": {"incomplete"},
    "response.failed": {"failed", "cancelled"},
}
LIFECYCLE = {"response.created", "response.queued", "response.in_progress", *TERMINAL}

TEXTS = {
    "output_text": ("response.output_text", "text", "content_index"),
    "refusal": ("response.refusal", "refusal", "content_index"),
    "reasoning_text": ("response.reasoning_text", "text", "content_index"),
    "summary_text": ("response.reasoning_summary_text", "text", "summary_index"),
}
PART_KINDS = {
    "response.content_part": {"message": {"output_text", "refusal"}, "reasoning": {"reasoning_text"}},
    "response.reasoning_summary_part": {"reasoning": {"summary_text"}},
}
INPUTS = {
    "function_call": ("response.function_call_arguments", "arguments"),
    "custom_tool_call": ("response.custom_tool_call_input", "input"),
    "mcp_call": ("response.mcp_call_arguments", "arguments"),
    "code_interpreter_call": ("response.code_interpreter_call_code", "code"),
}
STATELESS = {"reasoning", "compaction", "mcp_list_tools", "mcp_approval_request"}


@dataclass
class Part:
    kind: str
    text: str = ""
    annotations: list[Json] = field(default_factory=list[Json])
    said: str | None = None


@dataclass
class Item:
    added: Json
    content: list[Part] = field(default_factory=list[Part])
    summary: list[Part] = field(default_factory=list[Part])
    finals: dict[int, Json] = field(default_factory=dict[int, Json])
    open_part: Part | None = None
    input: str = ""
    has_input: bool = False
    is_over: bool = False
    """Whether a hosted call has said that it completed or failed."""
    done: Json | None = None

    @property
    def kind(self) -> str:
        return self.added["type"]

    def counted(self, index_key: str) -> list[Part]:
        return self.summary if index_key == "summary_index" else self.content


class Reader:
    """What a careful client knows after each event."""

    def __init__(self) -> None:
        self.response: Json = {}
        self.items: list[Item] = []
        self.heard: list[str] = []
        self.is_over = False

    def read(self, event: Json) -> None:
        kind: str = event["type"]
        assert not self.is_over, f"{kind} after the end"
        assert event["sequence_number"] == len(self.heard), "numbers are contiguous from 0"
        self.heard.append(kind)
        if "obfuscation" in event:
            assert kind.endswith(".delta"), "only deltas are padded"
            assert (len(event["delta"]) + len(event["obfuscation"])) % 16 == 0
        if kind in LIFECYCLE:
            self._lifecycle(kind, event["response"])
        elif kind == "error":
            self._error(event)
        else:
            assert "response.in_progress" in self.heard, f"{kind} before response.in_progress"
            self._of_an_item(kind, event)

    def _lifecycle(self, kind: str, response: Json) -> None:
        assert (kind == "response.created") == (len(self.heard) == 1), "created comes first and once"
        if self.response:
            assert response["id"] == self.response["id"]
            assert response["created_at"] == self.response["created_at"]
        if kind in TERMINAL:
            assert response["status"] in TERMINAL[kind]
            self.is_over = True
        else:
            assert response["status"] in {"queued", "in_progress"}
            assert response["output"] == []
            assert not self.items, f"{kind} after an item"
            assert self.heard.count(kind) == 1
        if kind == "response.queued":
            assert len(self.heard) == 2
        self.response = response

    def _error(self, event: Json) -> None:
        """It carries what the reference documents and what SDKs look for, and says the same in both."""
        assert event["error"].keys() == {"message", "type", "param", "code"}
        for key in ("message", "param", "code"):
            assert event[key] == event["error"][key]
        self.is_over = True

    def _of_an_item(self, kind: str, event: Json) -> None:
        index = event["output_index"]
        if kind == "response.output_item.added":
            self._added(index, event["item"])
            return
        item = self.items[index]
        assert item.done is None, f"{kind} after the end of its item"
        if kind == "response.output_item.done":
            self._done(item, event["item"])
            return
        if not kind.startswith("response.shell_call_command."):
            assert event["item_id"] == item.added["id"]
        stem, _, step = kind.rpartition(".")
        if stem in PART_KINDS:
            self._part(item, stem, step, event)
        elif kind == "response.output_text.annotation.added":
            self._annotation(item, event)
        elif stem in {name for name, _, _ in TEXTS.values()}:
            self._text(item, stem, step, event)
        elif stem in {name for name, _ in INPUTS.values()}:
            self._input(item, stem, step, event)
        else:
            self._progress(item, kind, step)

    def _added(self, index: int, item: Json) -> None:
        assert index == len(self.items), "indexes are counted up"
        assert item["id"] not in {other.added["id"] for other in self.items}
        if item["type"] not in STATELESS:
            assert item["status"] == "in_progress"
        if item["type"] in {"function_call", "custom_tool_call"}:
            self._callable(item["call_id"])
        for key in ("content", "summary"):
            assert not item.get(key), "parts come later"
        if item["type"] in INPUTS:
            assert item[INPUTS[item["type"]][1]] == ""
        self.items.append(Item(item))

    def _callable(self, call_id: str) -> None:
        assert 0 < len(call_id) <= 64, "no client could send it back"
        assert call_id not in {other.added.get("call_id") for other in self.items}, "a second call of one id"

    def _done(self, item: Item, final: Json) -> None:
        assert item.open_part is None, "a part is still open"
        if item.kind not in STATELESS:
            assert final["status"] != "in_progress" or item.kind == "apply_patch_call"
        for key in ("id", "type", "call_id", "name", "namespace"):
            assert final.get(key) == item.added.get(key), f"{key} has changed"
        if item.kind in INPUTS:
            assert item.has_input, "the input was never said to be whole"
            assert final[INPUTS[item.kind][1]] == item.input
        if item.kind in {"message", "reasoning"}:
            self._same_parts(item.content, final.get("content", []))
            self._same_parts(item.summary, final.get("summary", []))
        if item.kind == "message":
            assert final["role"] == "assistant"
        item.done = final

    def _same_parts(self, heard: Sequence[Part], final: Sequence[Json]) -> None:
        assert [(part.kind, part.text) for part in heard] == [
            (part["type"], part[TEXTS[part["type"]][1]]) for part in final
        ]
        for part, whole in zip(heard, final, strict=True):
            assert whole.get("annotations", []) == part.annotations

    def _part(self, item: Item, stem: str, step: str, event: Json) -> None:
        whole = event["part"]
        kind = whole["type"]
        _, key, index_key = TEXTS[kind]
        assert kind in PART_KINDS[stem][item.kind]
        parts, index = item.counted(index_key), event[index_key]
        if step == "added":
            assert item.open_part is None, "parts of an item follow each other"
            assert index == len(parts)
            assert whole[key] == ""
            parts.append(Part(kind))
            item.open_part = parts[-1]
            return
        assert step == "done"
        part = parts[index]
        assert part is item.open_part
        assert part.said == part.text == whole[key], "deltas, text.done and part.done agree"
        assert whole.get("annotations", []) == part.annotations
        item.open_part = None

    def _text(self, item: Item, stem: str, step: str, event: Json) -> None:
        part = item.open_part
        assert part is not None, "text outside a part"
        name, key, index_key = TEXTS[part.kind]
        assert name == stem
        assert item.counted(index_key)[event[index_key]] is part
        assert part.said is None, "text after its end"
        if part.kind == "output_text":
            assert isinstance(event["logprobs"], list)
        if step == "delta":
            part.text += event["delta"]
        else:
            assert step == "done"
            part.said = event[key]
            assert part.said == part.text

    def _annotation(self, item: Item, event: Json) -> None:
        part = item.open_part
        assert part is not None
        assert part.kind == "output_text"
        assert part.said is None
        assert item.content[event["content_index"]] is part
        assert event["annotation_index"] == len(part.annotations)
        part.annotations.append(event["annotation"])

    def _input(self, item: Item, stem: str, step: str, event: Json) -> None:
        name, key = INPUTS[item.kind]
        assert name == stem
        assert not item.has_input, "input after its end"
        assert not item.is_over, "input after the call's end"
        if step == "delta":
            item.input += event["delta"]
            return
        assert step == "done"
        item.has_input = True
        assert event[key] == item.input
        if item.kind == "function_call":
            assert event["name"] == item.added["name"]

    def _progress(self, item: Item, kind: str, step: str) -> None:
        """A hosted tool's step; `completed` or `failed` is its last, and follows the whole input."""
        assert not item.is_over, f"{kind} after the call's end"
        if step in {"completed", "failed"}:
            assert item.kind not in INPUTS or item.has_input
            item.is_over = True


def check(events: Sequence[Mapping[str, Any]]) -> Json:
    """Hold a whole stream to the grammar; the response that its events add up to.

    A stream that breaks off with an `error` event adds up to the last response that was shown.
    """
    reader = Reader()
    for event in events:
        reader.read(dict(event))
    assert reader.is_over, "the stream has no end"
    if reader.heard[-1] == "error":
        return reader.response
    folded = [] if reader.response["status"] == "cancelled" else [_whole(item) for item in reader.items]
    assert reader.response["output"] == folded, "the last word repeats the items"
    return {**reader.response, "output": folded}


def _whole(item: Item) -> Json:
    assert item.done is not None, "an item never ended"
    return item.done
