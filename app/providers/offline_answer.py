"""What the offline model answers to a context, decided as a whole before the first word is said."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from itertools import cycle, islice
from typing import Any

from app.domain import tokens
from app.domain.context import Context
from app.errors import InvalidRequest
from app.providers import offline_memory, offline_script, offline_tools
from app.providers.base import Finished
from app.providers.offline_pieces import Call, Message, Piece, Thought, cut, word_count
from app.providers.offline_schema import Unsatisfiable, instance
from app.providers.offline_script import Script, ScriptedCall
from app.providers.offline_tools import Tool
from app.providers.offline_view import View, quoted, survey

_FILLER = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclass(frozen=True, slots=True)
class Answer:
    """The pieces to say, how fast, and how it ends."""

    pieces: Sequence[Piece]
    script: Script
    finished: Finished | None
    """None if the connection dies instead."""


def compose(context: Context) -> Answer:
    """Decide on the answer.

    Raises:
        InvalidRequest: a rehearsal line is malformed, or a schema or `tool_choice` cannot be satisfied.
    """
    params = context.params
    view = survey(context.joined())
    if offline_memory.is_asked(params.get("instructions")):
        return _summed_up(view, params)
    script = offline_script.read(view.last)
    pieces = _pieces(view, params, script)
    total = word_count(pieces)
    limit = total // 2 if script.is_broken else total
    most = total if params.get("max_output_tokens") is None else params["max_output_tokens"]
    is_full = most < limit
    if is_full or script.is_broken:
        pieces = cut(pieces, min(most, limit))
    usage = _usage(view, params, pieces)
    return Answer(pieces, script, _finished(script, usage, is_full=is_full))


def _summed_up(view: View, params: Mapping[str, Any]) -> Answer:
    """No line of a transcript is a rehearsal line."""
    pieces = [Message(offline_memory.summary(view.last))]
    usage = _usage(view, params, pieces)
    return Answer(pieces, Script(), _finished(Script(), usage, is_full=False))


def structured(schema: Any, message: str, param: str) -> str:
    """An instance of a caller's schema as JSON, spaced so that it streams in several words.

    Raises:
        InvalidRequest: there is none.
    """
    try:
        return json.dumps(instance(schema, quoted(message) or "text"), ensure_ascii=False)
    except Unsatisfiable as error:
        raise InvalidRequest(
            f"Invalid schema for '{param}': {error}", code="invalid_value", param=param
        ) from error


def _pieces(view: View, params: Mapping[str, Any], script: Script) -> list[Piece]:
    thoughts = [Thought(script.reason)] if script.reason else []
    calls = _calls(view, params, script)
    if calls:
        return [*thoughts, *calls]
    if script.refusal:
        return [*thoughts, Message(script.refusal, "refusal")]
    return [*thoughts, Message(_text(view, params, script), top_logprobs=_top_logprobs(params))]


def _calls(view: View, params: Mapping[str, Any], script: Script) -> list[Call]:
    """The scripted calls that no output answers yet, else those that the tools and `tool_choice` lead to."""
    choice = offline_tools.choice(params.get("tool_choice"))
    known = _tools(view, params)
    answered = view.answered
    calls = _unanswered(
        [_scripted(call, known) for call in script.calls if choice.allows(call.name)], answered
    )
    if not calls and not script.refusal:
        message = offline_script.prose(view.last)
        names = frozenset(call["name"] for call in answered)
        calls = [_invented(tool, message) for tool in offline_tools.called(known, choice, message, names)]
    if params.get("parallel_tool_calls") is False:
        # The others follow in later turns, as the first ones are answered.
        calls = calls[:1]
    return [
        replace(call, head=call.head | {"call_id": _call_id(view, place)}) for place, call in enumerate(calls)
    ]


def _tools(view: View, params: Mapping[str, Any]) -> list[Tool]:
    """What the request declares, and what a developer added in the middle of the context."""
    found = offline_tools.declared(params.get("tools") or (), "tools")
    for item in view.items:
        if item.get("type") == "additional_tools":
            found += offline_tools.declared(item["tools"], "input")
    return found


def _unanswered(calls: Sequence[Call], answered: Sequence[Mapping[str, Any]]) -> list[Call]:
    """The calls of a script that have not been made yet, or at least not come back."""
    done = Counter((call["name"], call.get("arguments", call.get("input"))) for call in answered)
    left: list[Call] = []
    for call in calls:
        key = call.head["name"], call.text
        if done[key]:
            done[key] -= 1
        else:
            left.append(call)
    return left


def _scripted(call: ScriptedCall, known: Sequence[Tool]) -> Call:
    """The call as it was written, even of a tool that nobody declared."""
    tool = next((tool for tool in known if tool.name == call.name), None)
    if tool and tool.is_custom:
        return _call(call.name, tool.namespace, call.input, is_custom=True)
    return _call(call.name, tool.namespace if tool else None, call.input or "{}", is_custom=False)


def _invented(tool: Tool, message: str) -> Call:
    if tool.is_custom:
        return _call(tool.name, tool.namespace, "custom tool call", is_custom=True)
    schema = {"type": "object"} if tool.parameters is None else tool.parameters
    text = structured(schema, message, f"{tool.path}.parameters")
    return _call(tool.name, tool.namespace, text, is_custom=False)


def _call(name: str, namespace: str | None, text: str, *, is_custom: bool) -> Call:
    head = {"type": "custom_tool_call" if is_custom else "function_call", "name": name}
    if namespace is not None:
        head["namespace"] = namespace
    return Call(head, text, "input" if is_custom else "arguments")


def _call_id(view: View, place: int) -> str:
    """The same for the same context, as everything here; another in every turn of a chain."""
    return "call_" + blake2b(view.joined, digest_size=12, salt=place.to_bytes(4)).hexdigest()


def _text(view: View, params: Mapping[str, Any], script: Script) -> str:
    if script.word_count:
        return " ".join(islice(cycle(_FILLER), script.word_count))
    if script.recall:
        return offline_memory.recalled(view.items, script.recall)
    wanted = (params.get("text") or {}).get("format") or {}
    match wanted.get("type"):
        case "json_schema":
            message = offline_script.prose(view.last)
            return structured(wanted["schema"], message, "text.format.schema")
        case "json_object":
            return json.dumps({"answer": view.line}, ensure_ascii=False)
        case _:
            return view.line


def _top_logprobs(params: Mapping[str, Any]) -> int | None:
    """The client asks for log probabilities by `include` or by their number; each alone is enough."""
    number = params.get("top_logprobs") or 0
    is_included = "message.output_text.logprobs" in (params.get("include") or ())
    return number if number or is_included else None


def _usage(view: View, params: Mapping[str, Any], pieces: Sequence[Piece]) -> dict[str, Any]:
    # What a prompt says stands among the items already.
    beside = tokens.estimate_request({**params, "prompt": None})
    given, said = tokens.estimate(view.joined) + beside, word_count(pieces)
    return {
        "input_tokens": given,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": said,
        "output_tokens_details": {
            "reasoning_tokens": word_count(piece for piece in pieces if isinstance(piece, Thought))
        },
        "total_tokens": given + said,
    }


def _finished(script: Script, usage: Mapping[str, Any], *, is_full: bool) -> Finished | None:
    # There is one tier, whatever was asked for.
    echo = {"service_tier": "default"}
    if is_full:
        return Finished("incomplete", usage, reason="max_output_tokens", echo=echo)
    if script.is_dropped:
        return None
    if script.error_code:
        error = {"code": script.error_code, "message": "The model failed, as the rehearsal line asked."}
        return Finished("failed", usage, error=error, echo=echo)
    return Finished("completed", usage, echo=echo)
