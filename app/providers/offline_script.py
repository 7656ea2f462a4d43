"""Rehearsal lines: a user message tells the offline model how to behave.

    ::sleep SECONDS      wait before the first token
    ::words N MS         answer with N words, MS milliseconds apart
    ::call NAME JSON     call a tool with exactly this input; may stand several times
    ::reason TEXT        think this, in a reasoning item, before the answer
    ::refuse TEXT        refuse with these words
    ::recall WORDS       answer with the last line of a user, or of a summary, that has all these words
    ::fail CODE          fail with this error code halfway through the answer
    ::drop               let the connection to the model die halfway through the answer

Each stands on a line of its own, at its beginning, and all but `::call` at most once.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from app.errors import InvalidRequest

MAX_SECONDS = 3600.0
MAX_WORDS = 100_000


@dataclass(frozen=True, slots=True)
class ScriptedCall:
    """A call that a line asks for; `input` is passed on as it was written."""

    name: str
    input: str


@dataclass(frozen=True, slots=True)
class Script:
    """What the rehearsal lines of one message ask for; the defaults ask for nothing."""

    sleep_seconds: float = 0.0
    word_count: int = 0
    pause_seconds: float = 0.0
    calls: tuple[ScriptedCall, ...] = ()
    reason: str | None = None
    refusal: str | None = None
    recall: str | None = None
    error_code: str | None = None
    is_dropped: bool = False

    @property
    def is_broken(self) -> bool:
        """Whether the answer ends in its middle."""
        return self.is_dropped or self.error_code is not None


_NOTHING = Script()


def read(message: str) -> Script:
    """The script in a user message.

    Raises:
        InvalidRequest: naming the line, for one that begins with `::` and is not understood.
    """
    if "::" not in message:
        return _NOTHING
    fields: dict[str, Any] = {}
    calls: list[ScriptedCall] = []
    for line in message.split("\n"):
        if line.startswith("::"):
            word, _, rest = line[2:].strip().partition(" ")
            if word == "call":
                calls.append(_understood(line, "call", rest.strip())["call"])
            elif fields.keys() & (found := _understood(line, word, rest.strip())).keys():
                raise _malformed(line, f"'::{word}' may stand once")
            else:
                fields |= found
    return Script(calls=tuple(calls), **fields)


def prose(message: str) -> str:
    """The message without its rehearsal lines."""
    if "::" not in message:
        return message
    return "\n".join(line for line in message.split("\n") if not line.startswith("::"))


def _understood(line: str, word: str, rest: str) -> dict[str, Any]:
    form, reader = _LINES.get(word, (None, None))
    if form is None or reader is None:
        raise _malformed(line, "known are " + ", ".join(f"'{form}'" for form, _ in _LINES.values()))
    try:
        return reader(rest)
    except ValueError:
        raise _malformed(line, f"expected '{form}'") from None


def _malformed(line: str, expected: str) -> InvalidRequest:
    message = f"Invalid rehearsal line {line.rstrip()[:200]!r}: {expected}."
    return InvalidRequest(message, code="invalid_value", param="input")


def _sleep(rest: str) -> dict[str, Any]:
    return {"sleep_seconds": _within(float(rest), MAX_SECONDS)}


def _words(rest: str) -> dict[str, Any]:
    number, pause_ms = rest.split()
    words = _within(int(number) - 1, MAX_WORDS - 1) + 1
    return {"word_count": words, "pause_seconds": _within(float(pause_ms) / 1000, MAX_SECONDS)}


def _call(rest: str) -> dict[str, Any]:
    name, _, text = _some(rest).partition(" ")
    return {"call": ScriptedCall(name, text.strip())}


def _fail(rest: str) -> dict[str, Any]:
    (code,) = rest.split()
    return {"error_code": code}


def _drop(rest: str) -> dict[str, Any]:
    if rest:
        raise ValueError(rest)
    return {"is_dropped": True}


def _some(rest: str) -> str:
    if not rest:
        raise ValueError(rest)
    return rest


def _within(number: float, highest: float) -> Any:
    # Not a number is not between any two, so it is refused here too.
    if not 0 <= number <= highest:
        raise ValueError(number)
    return number


_LINES: Mapping[str, tuple[str, Callable[[str], dict[str, Any]]]] = {
    "sleep": (f"::sleep SECONDS, at most {MAX_SECONDS:.0f}", _sleep),
    "words": (f"::words N MS, at most {MAX_WORDS} words", _words),
    "call": ("::call NAME JSON", _call),
    "reason": ("::reason TEXT", lambda rest: {"reason": _some(rest)}),
    "refuse": ("::refuse TEXT", lambda rest: {"refusal": _some(rest)}),
    "recall": ("::recall WORDS", lambda rest: {"recall": _some(rest)}),
    "fail": ("::fail CODE", _fail),
    "drop": ("::drop", _drop),
}
