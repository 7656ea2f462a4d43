"""Items of tools that the service runs itself: searches, code, images and remote MCP servers."""

from typing import Annotated, Any, Literal, Required

from pydantic import Field
from typing_extensions import TypedDict

from app.api.schemas.bounds import Many, Strings, id_of
from app.api.schemas.unions import OneOf

Attribute = Annotated[
    Annotated[str, Field(max_length=512)] | float | bool, OneOf("one of a string, a decimal, or a boolean")
]


class FileSearchResult(TypedDict, total=False):
    file_id: str | None
    filename: str | None
    score: float | None
    text: str | None
    attributes: Annotated[dict[str, Attribute], Field(max_length=16)] | None


class FileSearchCall(TypedDict, total=False):
    type: Required[Literal["file_search_call"]]
    id: Required[Annotated[str, id_of("fs")]]
    queries: Required[Strings]
    status: Required[Literal["in_progress", "searching", "completed", "incomplete", "failed"]]
    results: Many[FileSearchResult] | None


class WebSource(TypedDict):
    type: Literal["url"]
    url: str


class SearchWeb(TypedDict, total=False):
    type: Required[Literal["search"]]
    query: str | None
    queries: Strings | None
    sources: Many[WebSource] | None


class OpenPage(TypedDict, total=False):
    type: Required[Literal["open_page"]]
    url: str | None


class FindInPage(TypedDict, total=False):
    type: Required[Literal["find_in_page"]]
    url: str | None
    pattern: str | None


class WebSearchCall(TypedDict, total=False):
    type: Required[Literal["web_search_call"]]
    id: Annotated[str, id_of("ws")] | None
    status: Literal["in_progress", "searching", "completed", "failed", "incomplete"] | None
    action: Annotated[SearchWeb | OpenPage | FindInPage, OneOf()] | None


class CodeLogs(TypedDict):
    type: Literal["logs"]
    logs: str


class CodeImage(TypedDict):
    type: Literal["image"]
    url: str


class CodeInterpreterCall(TypedDict):
    type: Literal["code_interpreter_call"]
    id: Annotated[str, id_of("ci")]
    container_id: str
    code: str | None
    outputs: Many[Annotated[CodeLogs | CodeImage, OneOf()]] | None
    status: Literal["in_progress", "completed", "incomplete", "interpreting", "failed"]


class ModerationDetails(TypedDict):
    categories: Strings
    moderation_stage: Literal["input", "output", "unknown"]


class ImageError(TypedDict, total=False):
    type: Required[str]
    code: Required[str | None]
    message: Required[str]
    param: Required[str | None]
    moderation_details: ModerationDetails | None


class SvgUsage(TypedDict):
    model: str
    input_tokens: int
    output_tokens: int
    reasoning_tokens: int
    total_tokens: int


class ImageGenerationCall(TypedDict, total=False):
    type: Required[Literal["image_generation_call"]]
    id: Required[Annotated[str, id_of("ig")]]
    result: Required[str | None]
    status: Required[Literal["in_progress", "completed", "generating", "failed"]]
    action: Literal["generate", "edit", "auto"] | None
    background: Literal["transparent", "opaque", "auto"] | None
    error: ImageError | None
    output_format: Literal["png", "webp", "jpeg", "gif", "svg"] | None
    quality: Literal["low", "medium", "high", "xhigh", "max", "auto"] | None
    revised_prompt: str | None
    size: str | None
    svg_usage: SvgUsage | None


class McpCodedError(TypedDict):
    type: Literal["mcp_protocol_error", "http_error"]
    code: int
    message: str


class McpToolError(TypedDict):
    type: Literal["mcp_tool_execution_error"]
    content: Any


McpError = Annotated[str | McpCodedError | McpToolError, OneOf("one of a string or an object")]


class McpListedTool(TypedDict, total=False):
    name: Required[str]
    input_schema: Required[Any]
    description: str | None
    annotations: Any


class McpListTools(TypedDict, total=False):
    type: Required[Literal["mcp_list_tools"]]
    id: Required[Annotated[str, id_of("mcpl")]]
    server_label: Required[str]
    tools: Required[Annotated[Many[McpListedTool], OneOf("an array of tools")]]
    error: McpError | None


class McpCall(TypedDict, total=False):
    type: Required[Literal["mcp_call"]]
    id: Required[Annotated[str, id_of("mcp")]]
    server_label: Required[str]
    name: Required[str]
    arguments: Required[str]
    output: str | None
    error: McpError | None
    status: Literal["in_progress", "completed", "incomplete", "calling", "failed"] | None
    approval_request_id: str | None


class McpApprovalRequest(TypedDict):
    type: Literal["mcp_approval_request"]
    id: Annotated[str, id_of("mcpr")]
    server_label: str
    name: str
    arguments: str


class McpApprovalResponse(TypedDict, total=False):
    type: Required[Literal["mcp_approval_response"]]
    id: Annotated[str, id_of("mcp")] | None
    approval_request_id: Required[str]
    approve: Required[bool]
    reason: str | None
