"""The bodies of requests to prompts. The order of the fields is the order in which they are checked."""

from typing import Annotated, Any, Literal, Required

from pydantic import AfterValidator, Field, TypeAdapter
from typing_extensions import TypedDict

from app.api.schemas.bounds import BODY, LongText, Many, NonEmpty, id_of
from app.api.schemas.content import AssistantPart, MessagePart
from app.api.schemas.conversation import StorableMetadata, without_nul
from app.api.schemas.create import Penalty
from app.api.schemas.formats import ReasoningOptions, TextOptions
from app.api.schemas.items import CONTENT
from app.api.schemas.tool_choice import ToolChoice
from app.api.schemas.tools import Tools
from app.api.schemas.unions import OneOf


class PromptMessage(TypedDict, total=False):
    type: Literal["message"] | None
    role: Required[Literal["system", "developer", "user"]]
    content: Required[Annotated[LongText | Many[MessagePart], CONTENT]]


class PromptAssistantMessage(TypedDict, total=False):
    type: Literal["message"] | None
    role: Required[Literal["assistant"]]
    content: Required[Annotated[LongText | Many[AssistantPart], CONTENT]]
    phase: Literal["commentary", "final_answer"] | None


AnyPromptMessage = Annotated[
    PromptMessage | PromptAssistantMessage,
    OneOf(key="role", listed=("assistant", "system", "developer", "user"), is_blamed_whole=True),
]


@BODY
class PromptTemplate(TypedDict, total=False):
    """What a create may refer to: each parameter as a create has it, which may say otherwise."""

    model: NonEmpty | None
    messages: Many[AnyPromptMessage] | None
    tools: Tools | None
    tool_choice: ToolChoice | None
    text: TextOptions | None
    temperature: Annotated[float, Field(ge=0, le=2)] | None
    top_p: Annotated[float, Field(ge=0, le=1)] | None
    presence_penalty: Penalty | None
    frequency_penalty: Penalty | None
    parallel_tool_calls: bool | None
    max_output_tokens: Annotated[int, Field(ge=16)] | None
    max_tool_calls: Annotated[int, Field(ge=1)] | None
    reasoning: ReasoningOptions | None
    truncation: Literal["auto", "disabled"] | None
    instructions: LongText | None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None


PromptName = Annotated[str, Field(max_length=256), AfterValidator(without_nul)]


@BODY
class CreatePrompt(TypedDict, total=False):
    """Keep a template as the first version of a prompt."""

    id: Annotated[str, id_of("pmpt_[A-Za-z0-9]")] | None
    name: PromptName | None
    metadata: StorableMetadata | None
    template: Required[PromptTemplate]


@BODY
class CreatePromptVersion(TypedDict):
    """Keep a template as the newest version of a prompt."""

    template: PromptTemplate


@BODY
class UpdatePrompt(TypedDict, total=False):
    """Change what is not given as null or left out; a null `default_version` is the newest from now on."""

    name: PromptName | None
    metadata: StorableMetadata | None
    default_version: str | None


CREATE, EXTEND, UPDATE, TEMPLATE = map(
    TypeAdapter[Any], (CreatePrompt, CreatePromptVersion, UpdatePrompt, PromptTemplate)
)
