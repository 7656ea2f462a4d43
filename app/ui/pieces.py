"""What an item is made of, each piece to be shown in one way. Pure, and total: any JSON has a showing.

Items come from clients and from upstreams, so no field can be relied on to be there or to be of its type.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson
from markupsafe import Markup

from app.ui import markdown, words

Kind = Literal["prose", "plain", "code", "image", "link", "note", "refusal", "folded"]

Json = Mapping[str, Any]

_PICTURE = re.compile(r"data:image/(?:png|jpeg|gif|webp);base64,[A-Za-z0-9+/=]+")
"""Of these types none can hold a script or load anything."""

_ONE_LINE = 72

_KINDS_OF_IMAGE = {"png", "jpeg", "gif", "webp"}


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of an entry; `kind` says how it is shown."""

    kind: Kind
    text: str = ""
    label: str = ""
    html: Markup | None = None
    url: str = ""
    is_cut: bool = False
    """Whether the text goes on beyond what is here."""


class Allowance:
    """How much one page may show: what is beyond is cut or shown more simply, so that no page hangs."""

    def __init__(
        self,
        *,
        text_chars: int = 50_000,
        markdown_chars: int = 100_000,
        image_chars: int = 2_000_000,
        page_chars: int = 1_000_000,
        all_image_chars: int = 6_000_000,
    ) -> None:
        """`text_chars` and `image_chars` are for each one, the others for all of a page."""
        self._text_chars = text_chars
        self._markdown_chars = markdown_chars
        self._image_chars = image_chars
        self._page_chars = page_chars
        self._all_image_chars = all_image_chars

    @property
    def is_used_up(self) -> bool:
        """Whether nothing more should be put on this page."""
        return self._page_chars <= 0

    def prose(self, text: Any) -> Piece:
        """A text in Markdown; as it was written once there has been too much of that."""
        shown, is_cut = self.cut(as_text(text))
        if len(shown) > self._markdown_chars:
            return Piece("plain", shown, is_cut=is_cut)
        self._markdown_chars -= len(shown)
        return Piece("prose", html=markdown.render(shown), is_cut=is_cut)

    def plain(self, text: Any) -> Piece:
        shown, is_cut = self.cut(as_text(text))
        return Piece("plain", shown, is_cut=is_cut)

    def code(self, label: str, value: Any) -> Piece:
        """What machines read; JSON in a string is set out in lines."""
        shown, is_cut = self.cut(laid_out(value, up_to=self._text_chars))
        return Piece("code", shown, label=label, is_cut=is_cut)

    def folded(self, label: str, value: Any) -> Piece:
        """The same, closed until it is wanted."""
        shown, is_cut = self.cut(laid_out(value, up_to=self._text_chars))
        return Piece("folded", shown, label=label, is_cut=is_cut)

    def image(self, url: Any, label: str = "Image") -> Piece:
        """A picture that is in the item itself, if it is small and of a harmless type.

        What is elsewhere is linked to and never loaded: whoever wrote the item would learn who reads it.
        """
        if not isinstance(url, str) or not url:
            return Piece("note", f"{label}, not stored here")
        if markdown.is_abroad(url):
            return Piece("link", f"{label} at {clipped(url)}", url=url)
        if len(url) > min(self._image_chars, self._all_image_chars):
            return Piece("note", f"{label} of {words.size(len(url) * 3 // 4)}, too large to be shown here")
        if not _PICTURE.fullmatch(url):
            return Piece("note", f"{label} of a type that is not shown here")
        self._all_image_chars -= len(url)
        return Piece("image", label=label, url=url)

    def cut(self, text: str) -> tuple[str, bool]:
        """As much of a text as may be shown, and whether that is not all."""
        room = max(0, min(self._text_chars, self._page_chars))
        self._page_chars -= min(len(text), room)
        # Half of a surrogate pair cannot be written at all.
        shown = text[:room].encode("utf-8", "replace").decode()
        return shown, len(text) > room


def of_content(content: Any, allowance: Allowance) -> list[Piece]:
    """The parts of a message or of a tool's output."""
    if isinstance(content, str):
        return [allowance.prose(content)] if content else []
    return [piece for part in objects(content) for piece in _of_part(part, allowance)]


def _of_part(part: Json, allowance: Allowance) -> Iterator[Piece]:
    match part.get("type"):
        case "input_text" | "output_text" | "text" | "summary_text" | "reasoning_text":
            if part.get("text"):
                yield allowance.prose(part["text"])
            yield from _sources(part.get("annotations"), allowance)
        case "refusal":
            yield Piece("refusal", allowance.cut(as_text(part.get("refusal")))[0])
        case "input_image" | "computer_screenshot" | "output_image":
            yield _picture(part, allowance)
        case "input_file":
            yield _file(part)
        case "input_audio" | "output_audio":
            yield Piece("note", "Audio, not played here")
        case "encrypted_content":
            yield Piece("note", "Encrypted content")
        case other:
            yield allowance.folded(words.spoken(clipped(as_text(other) or "part")), part)


def _picture(part: Json, allowance: Allowance) -> Piece:
    if not part.get("image_url") and part.get("file_id"):
        return Piece("note", f"Image in the file {clipped(as_text(part['file_id']))}")
    return allowance.image(part.get("image_url"))


def _file(part: Json) -> Piece:
    name = clipped(as_text(part.get("filename") or part.get("file_id")))
    url, data = as_text(part.get("file_url")), part.get("file_data")
    if markdown.is_abroad(url):
        return Piece("link", f"File {name or clipped(url)}", url=url)
    size = f", {words.size(len(data) * 3 // 4)}" if isinstance(data, str) else ""
    return Piece("note", f"File {name or 'without a name'}{size}")


def _sources(annotations: Any, allowance: Allowance) -> Iterator[Piece]:
    """What a text cites, by its name; at most so many that they do not bury it."""
    for each in objects(annotations)[:50]:
        url = as_text(each.get("url"))
        name = as_text(each.get("title") or each.get("filename") or each.get("file_id")) or url
        label = allowance.cut(clipped(name))[0]
        yield (
            Piece("link", label, label="Source", url=url)
            if markdown.is_abroad(url)
            else Piece("note", f"Source: {label}")
        )


def of_picture_data(data: Any, kind: Any, allowance: Allowance) -> Piece:
    """A picture that a tool has made: base64 without its type."""
    named = kind if kind in _KINDS_OF_IMAGE else "png"
    if not isinstance(data, str) or not data or kind == "svg":
        return Piece("note", "Image, not shown here")
    return allowance.image(f"data:image/{named};base64,{data}", "Generated image")


def objects(value: Any) -> list[Json]:
    """The objects of a list; what is not one is left out."""
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []


def field(item: Json, name: str) -> Json:
    """An object within an object; an empty one where there is none."""
    found = item.get(name)
    return found if isinstance(found, dict) else {}


def as_text(value: Any) -> str:
    """A string as it is, nothing for null, JSON for all else."""
    if isinstance(value, str):
        return value
    return "" if value is None else _dumps(value)


def lines(values: Any) -> str:
    """Strings below each other."""
    return "\n".join(as_text(each) for each in values) if isinstance(values, list) else as_text(values)


def clipped(text: str, most: int = 120) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def laid_out(value: Any, *, up_to: int = 1_000_000) -> str:
    """JSON in lines. A string that holds JSON is read first, unless it is too long to be worth it."""
    if isinstance(value, str):
        if len(value) > up_to or value[:1] not in {"{", "["}:
            return value
        try:
            return _dumps(orjson.loads(value))
        except (orjson.JSONDecodeError, orjson.JSONEncodeError):
            # It is no JSON, or is nested more deeply than can be written.
            return value
    return _dumps(value)


def _dumps(value: Any) -> str:
    """In one line where that is short, else indented."""
    flat = orjson.dumps(value)
    if len(flat) <= _ONE_LINE:
        return json.dumps(value, ensure_ascii=False)
    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()
