"""The body of `POST /v1/responses`.

The fields stand in the order in which the live service checks them: the first error in it is the reply.
Every parameter but `model` and `input` may be null, which means its default.
"""

from typing import Annotated, Literal, Required, get_args

from pydantic import Field, TypeAdapter, with_config
from typing_extensions import TypedDict

from app.api.schemas import refusals
from app.api.schemas.bounds import STRICT, LongText, Many, id_of
from app.api.schemas.content import Variable
from app.api.schemas.formats import ReasoningOptions, TextOptions
from app.api.schemas.items import ItemList
from app.api.schemas.tool_choice import ToolChoice
from app.api.schemas.tools import Tools
from app.api.schemas.unions import OneOf

Includable = Literal[
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
    "reasoning.encrypted_content",
    "message.output_text.logprobs",
]
Input = Annotated[
    LongText | ItemList, OneOf("one of a string or array of input items", noun_for_null="a string")
]
Metadata = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=16),
    OneOf("a metadata object"),
]
Penalty = Annotated[float, Field(ge=-2, le=2)]


class ModerationMode(TypedDict):
    mode: Literal["score", "block"]


class ModerationPolicy(TypedDict, total=False):
    input: ModerationMode | None
    output: ModerationMode | None


class Moderation(TypedDict, total=False):
    model: Required[str]
    policy: ModerationPolicy | None


class StreamOptions(TypedDict, total=False):
    include_obfuscation: bool | None


class PromptCacheOptions(TypedDict, total=False):
    mode: Literal["implicit", "explicit"] | None
    ttl: Literal["30m", "12h"] | None
    comparison_response_id: str | None
    prewarm: bool | None


class ContextManagement(TypedDict, total=False):
    type: Required[Literal["compaction"]]
    compact_threshold: Annotated[int, Field(ge=1000)] | None


class ConversationReference(TypedDict):
    id: Annotated[str, id_of("conv")]


class Prompt(TypedDict, total=False):
    id: Required[str]
    version: str | None
    variables: dict[str, Variable] | None


class AccessPrograms(TypedDict, total=False):
    cyber: Literal["standard", "daybreak_blue", "daybreak_red"] | None


class ImageOptions(TypedDict, total=False):
    context_compression: Literal["auto", "enabled", "disabled"] | None


@with_config(STRICT)
class CreateResponse(TypedDict, total=False):
    """Ask a model for a response."""

    model: Required[str]
    input: Required[Input]
    moderation: Moderation | None
    include: (
        Annotated[
            Many[Includable],
            OneOf(f"an array of {refusals.alternatives(get_args(Includable))}"),
        ]
        | None
    )
    tools: Tools | None
    tool_choice: ToolChoice | None
    metadata: Metadata | None
    text: TextOptions | None
    temperature: Annotated[float, Field(ge=0, le=2)] | None
    top_p: Annotated[float, Field(ge=0, le=1)] | None
    presence_penalty: Penalty | None
    frequency_penalty: Penalty | None
    parallel_tool_calls: bool | None
    stream: bool | None
    stream_options: StreamOptions | None
    background: bool | None
    max_output_tokens: Annotated[int, Field(ge=16)] | None
    max_tool_calls: Annotated[int, Field(ge=1)] | None
    reasoning: ReasoningOptions | None
    user: str | None
    safety_identifier: Annotated[str, Field(max_length=128)] | None
    prompt_cache_options: PromptCacheOptions | None
    prompt_cache_key: Annotated[str, Field(max_length=64)] | None
    prompt_cache_retention: Literal["in_memory", "24h"] | None
    truncation: Literal["auto", "disabled"] | None
    instructions: str | None
    store: bool | None
    service_tier: Literal["auto", "default", "fast", "flex", "priority", "scale", "ultrafast"] | None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None
    context_management: Annotated[Many[ContextManagement], Field(min_length=1)] | None
    previous_response_id: Annotated[str, id_of("resp")] | None
    conversation: (
        Annotated[
            Annotated[str, id_of("conv")] | ConversationReference, OneOf("one of a string or an object")
        ]
        | None
    )
    prompt: Prompt | None
    access_programs: AccessPrograms | None
    image: ImageOptions | None


CREATE = TypeAdapter(CreateResponse)
PARAMETERS = frozenset(CreateResponse.__annotations__)
