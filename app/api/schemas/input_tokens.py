"""The body of `POST /v1/responses/input_tokens`, each field as in a create's; any may be absent or null."""

from typing import Annotated, Literal

from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

from app.api.schemas.bounds import BODY, id_of
from app.api.schemas.create import ConversationReference, Input
from app.api.schemas.formats import ReasoningOptions, TextOptions
from app.api.schemas.tool_choice import ToolChoice
from app.api.schemas.tools import Tools
from app.api.schemas.unions import OneOf


@BODY
class CountInputTokens(TypedDict, total=False):
    """Count what a create with these parameters would give to the model."""

    model: str | None
    input: Input | None
    tools: Tools | None
    tool_choice: ToolChoice | None
    text: TextOptions | None
    parallel_tool_calls: bool | None
    reasoning: ReasoningOptions | None
    personality: Annotated[str, Field(max_length=64)] | None
    truncation: Literal["auto", "disabled"] | None
    instructions: str | None
    previous_response_id: Annotated[str, id_of("resp")] | None
    conversation: (
        Annotated[
            Annotated[str, id_of("conv")] | ConversationReference, OneOf("one of a string or an object")
        ]
        | None
    )


COUNT = TypeAdapter(CountInputTokens)
