"""An item as it is shown: who spoke, what was called, what was thought. Pure, and total."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from app.ui import tool_items
from app.ui.pieces import Allowance, Json, Piece, as_text, clipped, of_content
from app.ui.words import spoken

Kind = Literal["message", "call", "reasoning", "other"]
Whence = Literal["here", "earlier", "later"]

_ROLES: Mapping[str, str] = {
    "user": "User",
    "assistant": "Assistant",
    "system": "System",
    "developer": "Developer",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a call was answered."""

    pieces: tuple[Piece, ...]
    whence: Whence = "here"
    """Which turn it stands in, seen from the one that is read."""
    id: str = ""
    status: str = ""


@dataclass(frozen=True, slots=True)
class Entry:
    """An item as it is shown, or a call with its outputs."""

    kind: Kind
    place: int
    """Which item of the turn."""
    title: str
    """The role of who speaks, or the kind of the item in words."""
    name: str = ""
    """What was called."""
    role: str = ""
    id: str = ""
    call_id: str = ""
    status: str = ""
    """Only where it is not `completed`."""
    phase: str = ""
    pieces: tuple[Piece, ...] = ()
    answers: tuple[Answer, ...] = ()
    is_open: bool = False
    """Whether this is a call that nothing in sight answers."""
    whence: Whence = "here"
    """Where the call stands that is answered here."""

    @property
    def is_cut(self) -> bool:
        of_answers = (piece for answer in self.answers for piece in answer.pieces)
        return any(piece.is_cut for piece in (*self.pieces, *of_answers))


def heading(item: Json) -> dict[str, str]:
    """What stands above an item before there is anything in it."""
    role = as_text(item.get("role"))
    return {
        "kind": kind_of(item),
        "title": _ROLES.get(role) or head(item, 0, "other").title,
        "name": tool_items.name_of(item),
        "role": role if role in _ROLES else "",
    }


def kind_of(item: Json) -> Kind:
    """In which of the four ways an item is shown; a call's output is shown with it."""
    kind = as_text(item.get("type"))
    if kind == "message" or "role" in item:
        return "message"
    if kind == "reasoning":
        return "reasoning"
    return "call" if kind in tool_items.CALLS or is_output(item) else "other"


def is_output(item: Json) -> bool:
    """Whether this answers a call."""
    return as_text(item.get("type")).endswith("_output")


def call_id_of(item: Json) -> str:
    """By what a call and its output know each other; the schema gives one output no field for it."""
    if item.get("type") == "local_shell_call_output" and not item.get("call_id"):
        return as_text(item.get("id"))
    return as_text(item.get("call_id"))


def head(item: Json, place: int, kind: Kind) -> Entry:
    """What every entry has."""
    status = as_text(item.get("status"))
    return Entry(
        kind=kind,
        place=place,
        title=_sentence(as_text(item.get("type")) or "item"),
        id=as_text(item.get("id")),
        call_id=call_id_of(item),
        status="" if status == "completed" else clipped(spoken(status), 40),
    )


def message(item: Json, place: int, allowance: Allowance) -> Entry:
    """What somebody said."""
    role = as_text(item.get("role"))
    return replace(
        head(item, place, "message"),
        title=_ROLES.get(role) or clipped(role) or "Message",
        role=role if role in _ROLES else "",
        phase=clipped(spoken(as_text(item.get("phase"))), 40),
        pieces=tuple(of_content(item.get("content"), allowance)),
    )


def reasoning(item: Json, place: int, allowance: Allowance) -> Entry:
    """What the model thought, or only that it did."""
    pieces = of_content(item.get("summary"), allowance) + of_content(item.get("content"), allowance)
    if not pieces:
        sealed = "The text is encrypted." if item.get("encrypted_content") else "No text was given."
        pieces = [Piece("note", sealed)]
    return replace(head(item, place, "reasoning"), pieces=tuple(pieces))


def other(item: Json, place: int, allowance: Allowance) -> Entry:
    """What is neither said, called nor thought; of a kind that is not known, the JSON that it is."""
    own = tool_items.answered(item, allowance)
    if item.get("type") == "agent_message":
        own = of_content(item.get("content"), allowance)
    if item.get("type") == "compaction":
        own = [Piece("note", "What came before was condensed; the text is encrypted.")]
    return replace(
        head(item, place, "other"),
        name=tool_items.name_of(item) or _between(item),
        pieces=tuple(own or tool_items.output_of(item, allowance)),
    )


def _between(item: Json) -> str:
    """Who wrote to whom, of an agent's message."""
    names = [as_text(item.get("author")), as_text(item.get("recipient"))]
    return clipped(" → ".join(name for name in names if name))


def answer(item: Json, whence: Whence, allowance: Allowance) -> Answer:
    """An output, to be shown with its call."""
    status = as_text(item.get("status"))
    return Answer(
        pieces=tuple(tool_items.output_of(item, allowance)),
        whence=whence,
        id=as_text(item.get("id")),
        status="" if status == "completed" else clipped(spoken(status), 40),
    )


def _sentence(kind: str) -> str:
    text = clipped(spoken(kind), 60)
    return {"mcp": "MCP"}.get(text[:3], text[:1].upper() + text[1:3]) + text[3:]
