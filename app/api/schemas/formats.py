"""How a model is to answer: the format of its text and the effort of its reasoning."""

from typing import Annotated, Any, Literal, Required, get_args

from typing_extensions import TypedDict

from app.api.schemas import refusals
from app.api.schemas.bounds import ShortName
from app.api.schemas.unions import OneOf

EffortName = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
# The doubled "one of" is the live service's.
Effort = Annotated[EffortName, OneOf(f"one of {refusals.alternatives(get_args(EffortName))} or integer")]


class JsonObjectFormat(TypedDict):
    type: Literal["json_object"]


class PlainTextFormat(TypedDict):
    type: Literal["text"]


class JsonSchemaFormat(TypedDict, total=False):
    type: Required[Literal["json_schema"]]
    name: Required[ShortName]
    schema: Required[dict[str, Any]]
    description: str | None
    strict: bool | None


TextFormat = Annotated[JsonObjectFormat | PlainTextFormat | JsonSchemaFormat, OneOf("a text format")]


class TextOptions(TypedDict, total=False):
    format: TextFormat | None
    verbosity: Literal["low", "medium", "high"] | None


class ReasoningOptions(TypedDict, total=False):
    effort: Effort | None
    summary: Literal["concise", "detailed", "auto"] | None
    context: Literal["auto", "current_turn", "all_turns"] | None
    mode: Literal["standard", "pro"] | None
