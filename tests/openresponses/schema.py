"""The Open Responses schema of 2026-04-24, kept by hand: what a client of it may count on.

A key is required unless it says otherwise, and a type is exactly that type; further keys are allowed, as
in the published document. Two deviations from it are deliberate: a `json_schema` format carries its schema
(the document allows only null there), and reasoning events have OpenAI's names, too.
"""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

Status = Literal["in_progress", "completed", "incomplete"]


class InputText(TypedDict):
    type: Literal["input_text"]
    text: str


class InputImage(TypedDict):
    type: Literal["input_image"]
    image_url: str | None
    detail: Literal["low", "high", "auto"]


class InputFile(TypedDict):
    type: Literal["input_file"]
    filename: NotRequired[str]
    file_url: NotRequired[str]


class UrlCitation(TypedDict):
    type: Literal["url_citation"]
    url: str
    title: str
    start_index: int
    end_index: int


class TopLogprob(TypedDict):
    token: str
    logprob: float
    bytes: list[int]


class Logprob(TopLogprob):
    top_logprobs: list[TopLogprob]


class OutputText(TypedDict):
    type: Literal["output_text"]
    text: str
    annotations: list[UrlCitation]
    logprobs: NotRequired[list[Logprob]]


class Text(TypedDict):
    type: Literal["text", "summary_text", "reasoning_text"]
    text: str


class Refusal(TypedDict):
    type: Literal["refusal"]
    refusal: str


Part = Annotated[
    InputText | InputImage | InputFile | OutputText | Text | Refusal, Field(discriminator="type")
]


class Message(TypedDict):
    type: Literal["message"]
    id: str
    status: Status
    role: Literal["user", "assistant", "system", "developer"]
    content: list[Part]
    phase: NotRequired[Literal["commentary", "final_answer"]]


class FunctionCall(TypedDict):
    type: Literal["function_call"]
    id: str
    call_id: str
    name: str
    arguments: str
    status: Status


class FunctionCallOutput(TypedDict):
    type: Literal["function_call_output"]
    id: str
    call_id: str
    output: str | list[Annotated[InputText | InputImage | InputFile, Field(discriminator="type")]]
    status: Status


class ReasoningItem(TypedDict):
    type: Literal["reasoning"]
    id: str
    summary: list[Part]
    content: NotRequired[list[Part]]
    encrypted_content: NotRequired[str]


class Compaction(TypedDict):
    type: Literal["compaction"]
    id: str
    encrypted_content: str
    created_by: NotRequired[str]


Item = Annotated[
    Message | FunctionCall | FunctionCallOutput | ReasoningItem | Compaction, Field(discriminator="type")
]


class FunctionTool(TypedDict):
    type: Literal["function"]
    name: str
    description: str | None
    parameters: dict[str, Any] | None
    strict: bool | None


class FunctionChoice(TypedDict):
    type: Literal["function"]
    name: NotRequired[str]


class AllowedTools(TypedDict):
    type: Literal["allowed_tools"]
    tools: list[FunctionChoice]
    mode: Literal["none", "auto", "required"]


class PlainFormat(TypedDict):
    type: Literal["text", "json_object"]


class JsonSchemaFormat(TypedDict):
    type: Literal["json_schema"]
    name: str
    description: str | None
    schema: dict[str, Any] | None
    strict: bool


class TextOptions(TypedDict):
    format: Annotated[PlainFormat | JsonSchemaFormat, Field(discriminator="type")]
    verbosity: NotRequired[Literal["low", "medium", "high"]]


class ReasoningOptions(TypedDict):
    effort: Literal["none", "low", "medium", "high", "xhigh"] | None
    summary: Literal["concise", "detailed", "auto"] | None


class InputDetails(TypedDict):
    cached_tokens: int


class OutputDetails(TypedDict):
    reasoning_tokens: int


class Usage(TypedDict):
    input_tokens: int
    output_tokens: int
    total_tokens: int
    input_tokens_details: InputDetails
    output_tokens_details: OutputDetails


class IncompleteDetails(TypedDict):
    reason: str


class Error(TypedDict):
    code: str
    message: str


class Response(TypedDict):
    id: str
    object: Literal["response"]
    created_at: int
    completed_at: int | None
    status: str
    incomplete_details: IncompleteDetails | None
    model: str
    previous_response_id: str | None
    instructions: str | None
    output: list[Item]
    error: Error | None
    tools: list[FunctionTool]
    tool_choice: Literal["none", "auto", "required"] | FunctionChoice | AllowedTools
    truncation: Literal["auto", "disabled"]
    parallel_tool_calls: bool
    text: TextOptions
    top_p: float
    presence_penalty: float
    frequency_penalty: float
    top_logprobs: int
    temperature: float
    reasoning: ReasoningOptions | None
    usage: Usage | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    store: bool
    background: bool
    service_tier: str
    metadata: dict[str, str]
    safety_identifier: str | None
    prompt_cache_key: str | None


class Numbered(TypedDict):
    sequence_number: int


class Snapshot(Numbered):
    type: Literal[
        "response.created",
        "response.queued",
        "response.in_progress",
        "response.completed",
        "response.failed",
        "response.incomplete",
    ]
    response: Response


class OfOutput(Numbered):
    output_index: int


class ItemEvent(OfOutput):
    type: Literal["response.output_item.added", "response.output_item.done"]
    item: Item | None


class OfItem(OfOutput):
    item_id: str


class OfContent(OfItem):
    content_index: int


class ContentPart(OfContent):
    type: Literal["response.content_part.added", "response.content_part.done"]
    part: Part


class TextDelta(OfContent):
    type: Literal["response.output_text.delta"]
    delta: str
    logprobs: NotRequired[list[Logprob]]
    obfuscation: NotRequired[str]


class TextDone(OfContent):
    type: Literal["response.output_text.done"]
    text: str
    logprobs: NotRequired[list[Logprob]]


class AnnotationAdded(OfContent):
    type: Literal["response.output_text.annotation.added"]
    annotation_index: int
    annotation: UrlCitation | None


class RefusalDelta(OfContent):
    type: Literal["response.refusal.delta"]
    delta: str


class RefusalDone(OfContent):
    type: Literal["response.refusal.done"]
    refusal: str


class ReasoningDelta(OfContent):
    type: Literal["response.reasoning.delta", "response.reasoning_text.delta"]
    delta: str
    obfuscation: NotRequired[str]


class ReasoningDone(OfContent):
    type: Literal["response.reasoning.done", "response.reasoning_text.done"]
    text: str


class OfSummary(OfItem):
    summary_index: int


class SummaryPart(OfSummary):
    type: Literal["response.reasoning_summary_part.added", "response.reasoning_summary_part.done"]
    part: Part


class SummaryDelta(OfSummary):
    type: Literal["response.reasoning_summary_text.delta"]
    delta: str
    obfuscation: NotRequired[str]


class SummaryDone(OfSummary):
    type: Literal["response.reasoning_summary_text.done"]
    text: str


class ArgumentsDelta(OfItem):
    type: Literal["response.function_call_arguments.delta"]
    delta: str
    obfuscation: NotRequired[str]


class ArgumentsDone(OfItem):
    type: Literal["response.function_call_arguments.done"]
    arguments: str


class ErrorPayload(TypedDict):
    type: str
    code: str | None
    message: str
    param: str | None
    headers: NotRequired[dict[str, str]]


class ErrorEvent(Numbered):
    type: Literal["error"]
    error: ErrorPayload


Event = Annotated[
    Snapshot
    | ItemEvent
    | ContentPart
    | TextDelta
    | TextDone
    | AnnotationAdded
    | RefusalDelta
    | RefusalDone
    | ReasoningDelta
    | ReasoningDone
    | SummaryPart
    | SummaryDelta
    | SummaryDone
    | ArgumentsDelta
    | ArgumentsDone
    | ErrorEvent,
    Field(discriminator="type"),
]

RESPONSE: TypeAdapter[Response] = TypeAdapter(Response)
EVENT: TypeAdapter[Event] = TypeAdapter(Event)
ITEM: TypeAdapter[Item] = TypeAdapter(Item)


def check(adapter: TypeAdapter[Any], json: bytes) -> None:
    """Raise pydantic's ValidationError, which lists everything that is wrong, unless the value fits."""
    adapter.validate_json(json, strict=True)
