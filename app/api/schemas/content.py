"""Content parts: what messages, tool outputs and prompt variables are made of."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Required

from pydantic import Field
from typing_extensions import TypedDict

from app.api.schemas import refusals
from app.api.schemas.bounds import OPEN, FileUrl, ImageUrl, LongText, Many
from app.api.schemas.unions import OneOf, exactly_one
from app.errors import InvalidRequest

# A part of one of these types in the wrong place is told apart from a part of no type at all.
# This list and the three of `Parts` are the live service's, in its order.
KNOWN_PARTS = (
    "input_text",
    "input_image",
    "input_audio",
    "output_text",
    "refusal",
    "input_file",
    "computer_screenshot",
    "summary_text",
    "encrypted_content",
)


class Parts(OneOf):
    """A union of content parts: a known type in the wrong place is reported at the part itself."""

    def refuse(self, value: Any, path: str, *, names: Sequence[str]) -> InvalidRequest:
        kind = value.get("type") if isinstance(value, dict) else None
        if not isinstance(kind, str):
            return super().refuse(value, path, names=names)
        if kind in KNOWN_PARTS:
            return refusals.wrong_value(path, kind, names)
        return refusals.wrong_value(f"{path}.type", kind, KNOWN_PARTS)


class CacheBreakpoint(TypedDict, total=False):
    mode: Required[Literal["explicit"]]
    ttl: Literal["30m", "12h"] | None


class InputText(TypedDict, total=False):
    type: Required[Literal["input_text"]]
    text: Required[LongText]
    prompt_cache_breakpoint: CacheBreakpoint | None


class InputImage(TypedDict, total=False):
    type: Required[Literal["input_image"]]
    detail: Literal["low", "high", "auto", "original"] | None
    file_id: str | None
    image_url: ImageUrl | None
    prompt_cache_breakpoint: CacheBreakpoint | None


class InputFile(TypedDict, total=False):
    type: Required[Literal["input_file"]]
    detail: Literal["auto", "low", "high"] | None
    file_data: Annotated[str, Field(max_length=73_400_320)] | None
    file_id: str | None
    file_url: FileUrl | None
    filename: str | None
    prompt_cache_breakpoint: CacheBreakpoint | None


class Audio(TypedDict):
    data: str
    format: Literal["mp3", "wav"]


class InputAudio(TypedDict):
    type: Literal["input_audio"]
    input_audio: Audio


class EncryptedContent(TypedDict):
    type: Literal["encrypted_content"]
    encrypted_content: str


# Annotations and logprobs are open: they were made by an upstream, and come back unread.
@OPEN
class FileCitation(TypedDict):
    type: Literal["file_citation"]
    file_id: str
    filename: str
    index: int


@OPEN
class UrlCitation(TypedDict):
    type: Literal["url_citation"]
    url: str
    title: str
    start_index: int
    end_index: int


@OPEN
class ContainerFileCitation(TypedDict):
    type: Literal["container_file_citation"]
    container_id: str
    file_id: str
    filename: str
    start_index: int
    end_index: int


@OPEN
class FilePath(TypedDict):
    type: Literal["file_path"]
    file_id: str
    index: int


Annotation = Annotated[FileCitation | UrlCitation | ContainerFileCitation | FilePath, OneOf()]


@OPEN
class TopLogprob(TypedDict, total=False):
    token: Required[str]
    logprob: Required[float]
    bytes: list[int] | None


@OPEN
class Logprob(TopLogprob, total=False):
    top_logprobs: Many[TopLogprob] | None


class OutputText(TypedDict, total=False):
    type: Required[Literal["output_text"]]
    text: Required[LongText]
    annotations: Many[Annotation] | None
    logprobs: Many[Logprob] | None


class RefusalPart(TypedDict):
    type: Literal["refusal"]
    refusal: str


Image = Annotated[InputImage, exactly_one("file_id", "image_url")]
File = Annotated[InputFile, exactly_one("file_data", "file_id", "file_url")]

MessagePart = Annotated[
    InputText | Image | File | InputAudio,
    Parts(listed=("input_text", "input_image", "input_file", "scoped_content", "input_audio")),
]
ToolOutputPart = Annotated[
    InputText | Image | File, Parts(listed=("input_text", "input_image", "input_file", "scoped_content"))
]
AssistantPart = Annotated[OutputText | RefusalPart, Parts()]
AgentPart = Annotated[InputText | Image | EncryptedContent, Parts()]

ToolOutput = Annotated[LongText | Many[ToolOutputPart], OneOf("one of a string or array of objects")]
"""What a tool gave: text, or parts."""

Variable = Annotated[str | InputText | Image | File, Parts("one of a string or an object")]
"""What fills a place in a prompt template."""
