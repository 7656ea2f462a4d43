"""From the chunks of Chat Completions to deltas. Pure; no I/O.

A chunk knows no items: they begin when another kind of output begins. Only the first choice is read;
no more are ever asked for.
"""

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from app import ids
from app.providers.base import (
    AnnotationAdded,
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
from app.providers.chat_usage import renamed
from app.providers.upstream_errors import UpstreamErrors

Chunk = Mapping[str, Any]
Kind = Literal["output_text", "refusal", "reasoning_text"]

# The reasons that do not mean "completed"; upstreams have many words for that.
_CUT_BY = {
    "length": "max_output_tokens",
    "max_tokens": "max_output_tokens",
    "content_filter": "content_filter",
}
_BROKEN_BY = frozenset({"error", "abort"})


@dataclass(slots=True)
class _Said:
    """The message or reasoning item that is open, and its open part."""

    slot: int
    kind: Kind
    index: int = 0

    @property
    def is_reasoning(self) -> bool:
        return self.kind == "reasoning_text"

    @property
    def head(self) -> dict[str, Any]:
        return {"type": "reasoning"} if self.is_reasoning else {"type": "message", "role": "assistant"}


@dataclass(slots=True)
class _Call:
    """A tool call whose facts may come in any order."""

    is_custom: bool = False
    id: str = ""
    name: str = ""
    unsent: str = ""
    """Input that came before the call could be reported."""
    slot: int | None = None
    has_input: bool = False


class ChatFold:
    """What has been reported of one answer so far."""

    def __init__(self, errors: UpstreamErrors) -> None:
        self._errors = errors
        self._is_started = False
        self._has_choice = False
        self._slots = 0
        self._said: _Said | None = None
        self._calls: list[_Call] = []
        self._by_index: dict[int | None, _Call] = {}
        self._reason: str | None = None
        self._usage: Mapping[str, Any] | None = None
        self._echo: dict[str, Any] = {}

    def feed(self, chunk: Chunk) -> Iterator[Delta]:
        """The deltas of one chunk.

        Raises:
            UpstreamError: the chunk is an error.
        """
        if chunk.get("error") or "error" in (chunk.get("type"), chunk.get("object")):
            raise self._errors.said(chunk)
        if not self._is_started:
            self._is_started = True
            yield Started(_string(chunk, "model") or None, _string(chunk, "id") or None)
        self._note(chunk)
        for choice in chunk.get("choices") or ():
            if not choice.get("index"):
                yield from self._chosen(choice)

    def whole(self, answer: Chunk) -> Iterator[Delta]:
        """The deltas of an answer that was not streamed: it is one chunk with everything in it.

        Raises:
            UpstreamError: the answer has no choice, or says that it failed.
        """
        yield from self.feed(answer)
        yield from self.end(is_done=True)

    def end(self, *, is_done: bool) -> Iterator[Delta]:
        """What is left to say when nothing more comes.

        Some upstreams forget `[DONE]`, some their `finish_reason`; one that says neither was cut, and one
        that chose nothing has not answered. What a limit cut stays open: the outcome says how it ends.

        Args:
            is_done: Whether the upstream marked the end of its answer.

        Raises:
            UpstreamError: there was no choice, no end, or the upstream says that it broke off.
        """
        if not self._has_choice or not (is_done or self._reason):
            raise self._errors.cut()
        if self._reason in _BROKEN_BY:
            raise self._errors.broken(f"finish_reason is {self._reason}")
        reason = _CUT_BY.get(self._reason or "")
        if reason is None:
            yield from self._close_said()
            for call in self._calls:
                yield from self._close_call(call)
        yield Finished(
            "incomplete" if reason else "completed",
            usage=renamed(self._usage) if self._usage else None,
            reason=reason,
            echo=self._echo,
        )

    def _note(self, chunk: Chunk) -> None:
        self._usage = chunk.get("usage") or self._usage
        for name in ("model", "service_tier"):
            if chunk.get(name):
                self._echo[name] = chunk[name]

    def _chosen(self, choice: Chunk) -> Iterator[Delta]:
        self._has_choice = True
        self._reason = _string(choice, "finish_reason") or self._reason
        delta = choice.get("delta") or choice.get("message") or {}
        if thought := _string(delta, "reasoning_content") or _string(delta, "reasoning"):
            yield from self._say("reasoning_text", thought)
        if text := _text(delta):
            yield from self._say("output_text", text, _logprobs(choice))
        if refusal := _string(delta, "refusal"):
            yield from self._say("refusal", refusal)
        for annotation in delta.get("annotations") or ():
            yield from self._annotate(annotation)
        for call in _calls(delta, is_whole="message" in choice):
            yield from self._hear(call)

    def _say(self, kind: Kind, text: str, logprobs: Sequence[dict[str, Any]] = ()) -> Iterator[Delta]:
        said = self._said
        if said is None or said.kind != kind:
            said = yield from self._turn_to(kind)
        yield TextDelta(said.slot, said.index, text, logprobs)

    def _turn_to(self, kind: Kind) -> Generator[Delta, None, _Said]:
        """Open the part that `kind` belongs to: in the open item if it may stand there, else in a new one."""
        said = self._said
        if said is not None and not said.is_reasoning and kind != "reasoning_text":
            yield PartFinished(said.slot, said.index)
            said = _Said(said.slot, kind, said.index + 1)
        else:
            yield from self._close_said()
            said = _Said(self._new_slot(), kind)
            yield ItemStarted(said.slot, said.head)
        self._said = said
        yield PartStarted(said.slot, said.index, kind)
        return said

    def _close_said(self) -> Iterator[Delta]:
        if self._said is not None:
            yield PartFinished(self._said.slot, self._said.index)
            yield ItemFinished(self._said.slot)
            self._said = None

    def _annotate(self, annotation: Chunk) -> Iterator[Delta]:
        """Chat Completions keep a citation's fields one level deeper than the API does."""
        said = self._said
        if said is None or said.kind != "output_text":
            said = yield from self._turn_to("output_text")
        kind = annotation.get("type", "")
        yield AnnotationAdded(said.slot, said.index, {"type": kind, **(annotation.get(kind) or {})})

    def _hear(self, part: Chunk) -> Iterator[Delta]:
        call = self._call_of(part)
        said = part.get("function") or part.get("custom") or {}
        call.is_custom = call.is_custom or "custom" in part
        call.id = call.id or _string(part, "id")
        call.name = call.name or _string(said, "name")
        call.unsent += _input(said)
        if call.slot is None and call.name and (call.id or call.unsent):
            yield from self._start_call(call)
        if call.slot is not None and call.unsent:
            yield InputDelta(call.slot, call.unsent)
            call.unsent, call.has_input = "", True

    def _call_of(self, part: Chunk) -> _Call:
        """The call that a fragment continues, or a new one.

        Most upstreams number calls. Some number all of them 0, or none: then another id, or without
        numbers a name, begins the next.
        """
        index, call_id = part.get("index"), part.get("id")
        call = self._by_index.get(index)
        is_other = call is not None and bool(call_id and call.id) and call_id != call.id
        is_unnumbered = index is None and bool((part.get("function") or {}).get("name"))
        if call is None or is_other or is_unnumbered:
            call = self._by_index[index] = _Call()
            self._calls.append(call)
        return call

    def _start_call(self, call: _Call) -> Iterator[Delta]:
        yield from self._close_said()
        call.slot = self._new_slot()
        kind = "custom_tool_call" if call.is_custom else "function_call"
        head = {"type": kind, "call_id": call.id or ids.call_id(), "name": call.name}
        yield ItemStarted(call.slot, head)

    def _close_call(self, call: _Call) -> Iterator[Delta]:
        if not call.name:
            raise self._errors.broken("a tool call without a name")
        if call.slot is None:
            yield from self._start_call(call)
        slot = call.slot or 0
        if not call.has_input and not call.is_custom:
            # Arguments are a JSON text even when there are none (behaviour 31).
            yield InputDelta(slot, "{}")
        yield ItemFinished(slot)

    def _new_slot(self) -> int:
        self._slots += 1
        return self._slots - 1


def _calls(delta: Chunk, *, is_whole: bool) -> Iterator[Chunk]:
    """The fragments of tool calls; an answer that was not streamed has each call once, unnumbered."""
    calls = delta.get("tool_calls") or ()
    if delta.get("function_call"):
        calls = ({"index": 0, "function": delta["function_call"]},)
    for place, call in enumerate(calls):
        yield {**call, "index": place} if is_whole else call


def _input(said: Chunk) -> str:
    text = said.get("arguments") or said.get("input") or ""
    return text if isinstance(text, str) else orjson.dumps(text).decode()


def _string(said: Chunk, name: str) -> str:
    text = said.get(name)
    if text is not None and not isinstance(text, str):
        raise TypeError(f"{name} is not a text")
    return text or ""


def _text(delta: Chunk) -> str:
    """Some gateways send content as parts."""
    content = delta.get("content")
    if isinstance(content, list):
        return "".join(_string(part, "text") for part in content)
    return _string(delta, "content")


def _logprobs(choice: Chunk) -> Sequence[dict[str, Any]]:
    logprobs = choice.get("logprobs")
    return [_logprob(token) for token in logprobs.get("content") or ()] if logprobs else ()


def _logprob(token: Chunk) -> dict[str, Any]:
    shown = {key: token.get(key) for key in ("token", "bytes", "logprob")}
    if "top_logprobs" in token:
        shown["top_logprobs"] = [_logprob(other) for other in token["top_logprobs"] or ()]
    return shown
