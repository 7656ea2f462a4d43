"""What the offline model looks at in a context: the user messages, and what came after the last one."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

Items = Sequence[Mapping[str, Any]]

_CALLS = frozenset({"function_call", "custom_tool_call"})
_OUTPUTS = frozenset({"function_call_output", "custom_tool_call_output"})
_QUOTE_LENGTH = 200


@dataclass(frozen=True, slots=True)
class View:
    """One context, read once."""

    joined: bytes
    items: Items
    first: str | None
    """The first user message; None if there is no user message at all."""
    last: str
    """The last user message, or nothing."""
    since: Items
    """The items after the last user message."""

    @property
    def answered(self) -> list[Mapping[str, Any]]:
        """The calls that were made after the last user message and have an output."""
        outputs = {item.get("call_id") for item in self.since if item.get("type") in _OUTPUTS}
        return [item for item in self.since if item.get("type") in _CALLS and item.get("call_id") in outputs]

    @property
    def line(self) -> str:
        """What the model has to say about its context."""
        count = f"{len(self.items)} item" if len(self.items) == 1 else f"{len(self.items)} items"
        if self.first is None:
            said = f"I was given {count} and no user message"
        else:
            first, last = quoted(self.first), quoted(self.last)
            said = f'I was given {count}; the first user message was "{first}", the last was "{last}"'
        outputs = self._closing_outputs()
        label = "tool output" if len(outputs) == 1 else "tool outputs"
        return said + (f"; {label}: {', '.join(outputs)}." if outputs else ".")

    def _closing_outputs(self) -> list[str]:
        found: list[str] = []
        for item in reversed(self.since):
            if item.get("type") not in _OUTPUTS:
                break
            found.insert(0, f'"{quoted(text_of(item.get("output")))}"')
        return found


def survey(joined: bytes) -> View:
    """Read all items of a context."""
    items: list[dict[str, Any]] = orjson.loads(b"[" + joined + b"]")
    users = [place for place, item in enumerate(items) if _is_user(item)]
    if not users:
        return View(joined, items, None, "", items)
    first, last = (text_of(items[place].get("content")) for place in (users[0], users[-1]))
    return View(joined, items, first, last, items[users[-1] + 1 :])


def last_message(items: Items) -> str:
    """The last user message among some items, or nothing."""
    return next((text_of(item.get("content")) for item in reversed(items) if _is_user(item)), "")


def text_of(content: Any) -> str:
    """The text of a message's content or a tool's output; what is not text is named in its place."""
    if isinstance(content, str):
        return content
    return "\n".join(part.get("text") or f"[{part.get('type')}]" for part in content or ())


def quoted(text: str) -> str:
    """The beginning of a text, on one line."""
    # The beginning is cut out first: a message may have ten million characters.
    return " ".join(text[: 2 * _QUOTE_LENGTH].split())[:_QUOTE_LENGTH]


def _is_user(item: Mapping[str, Any]) -> bool:
    return item.get("role") == "user" and item.get("type", "message") == "message"
