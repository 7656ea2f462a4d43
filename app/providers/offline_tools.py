"""Which tools the offline model may call, and which it does."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.errors import InvalidRequest

_WORD = re.compile(r"\b[^\W\d_]{4,}\b")
_JOINTS = re.compile(r"[-_]|(?<=[a-z\d])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")

# What these fields of a tool may hold without changing anything; more than that cannot be carried.
_WITHOUT_EFFECT: Mapping[str, Sequence[Any]] = {
    "defer_loading": (None, False),
    "async": (None, False),
    "allowed_callers": (None, ["direct"]),
}


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool that the client runs."""

    is_custom: bool
    name: str
    namespace: str | None
    description: str
    parameters: Any
    path: str
    """Where the request declares it, for an error's `param`."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What `tool_choice` leaves to the model."""

    is_demanded: bool
    names: frozenset[str] | None
    """The only tools that may be called; None for any."""

    def allows(self, name: str) -> bool:
        return self.names is None or name in self.names


def unsupported(param: str) -> InvalidRequest:
    """The refusal of something that the offline model cannot do (law L5)."""
    message = f"Unsupported parameter: '{param}' is not supported with this model."
    return InvalidRequest(message, code="unsupported_parameter", param=param)


def declared(tools: Sequence[Mapping[str, Any]], path: str, namespace: str | None = None) -> list[Tool]:
    """The tools of a list, those within namespaces too.

    Raises:
        InvalidRequest: for a hosted tool, and for a way of calling that needs one.
    """
    found: list[Tool] = []
    for index, tool in enumerate(tools):
        here = f"{path}[{index}]"
        if tool.get("type") == "namespace" and namespace is None:
            found += declared(tool["tools"], f"{here}.tools", tool["name"])
            continue
        _refuse(tool, here)
        found.append(
            Tool(
                is_custom=tool["type"] == "custom",
                name=tool["name"],
                namespace=namespace,
                description=tool.get("description") or "",
                parameters=tool.get("parameters"),
                path=here,
            )
        )
    return found


def choice(tool_choice: Any) -> Choice:
    """Read `tool_choice`; a hosted tool in it is refused."""
    match tool_choice:
        case None | "auto":
            return Choice(is_demanded=False, names=None)
        case "none":
            return Choice(is_demanded=False, names=frozenset())
        case "required":
            return Choice(is_demanded=True, names=None)
        case {"type": "function" | "custom", "name": name}:
            return Choice(is_demanded=True, names=frozenset([name]))
        case {"type": "allowed_tools", "tools": tools, **mode}:
            names = frozenset(tool["name"] for tool in tools if "name" in tool)
            return Choice(is_demanded=mode.get("mode") == "required", names=names)
        case _:
            raise unsupported("tool_choice")


def called(tools: Sequence[Tool], allowed: Choice, message: str, answered: frozenset[str]) -> list[Tool]:
    """The tools that the last user message speaks of and that have not answered it, or one that is demanded.

    Raises:
        InvalidRequest: a tool is demanded and there is none.
    """
    candidates = [tool for tool in tools if allowed.allows(tool.name)]
    open_ones = [tool for tool in candidates if tool.name not in answered]
    if open_ones:
        words = _words(message)
        matching = [tool for tool in open_ones if not words.isdisjoint(_words_of(tool))]
        if matching or not allowed.is_demanded:
            return matching
    if not allowed.is_demanded:
        return []
    if not candidates:
        raise InvalidRequest("Tool choice demands a tool that is not in 'tools'.", param="tool_choice")
    return (open_ones or candidates)[:1]


def _refuse(tool: Mapping[str, Any], path: str) -> None:
    if tool.get("type") not in {"function", "custom"}:
        raise unsupported(f"{path}.type")
    for field, passing in _WITHOUT_EFFECT.items():
        if tool.get(field) not in passing:
            raise unsupported(f"{path}.{field}")
    # A grammar constrains the input, which the model's one sentence would not obey.
    if tool["type"] == "custom" and (tool.get("format") or {}).get("type", "text") != "text":
        raise unsupported(f"{path}.format")


def _words(text: str) -> set[str]:
    return set(_WORD.findall(text.lower()))


def _words_of(tool: Tool) -> set[str]:
    return _words(f"{_JOINTS.sub(' ', tool.name)} {tool.description}")
