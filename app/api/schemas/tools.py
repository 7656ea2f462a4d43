"""Tools that a request declares, and its choice among them (reference: "Tools")."""

from typing import Annotated, Any, Literal, NotRequired, Required

from pydantic import Field
from typing_extensions import TypedDict

from app.api.schemas.bounds import Many, NonEmpty, Strings, ToolName
from app.api.schemas.environments import Container, ShellEnvironment
from app.api.schemas.formats import Effort
from app.api.schemas.unions import OneOf, exactly_one

Callers = Annotated[
    Many[Literal["direct", "programmatic"]], Field(min_length=1), OneOf("an array of strings")
]
ContextSize = Literal["low", "medium", "high"]

# Written as a call because `async` is a keyword.
Asynchronous = TypedDict("Asynchronous", {"async": NotRequired[bool | None]})


class FunctionTool(Asynchronous, total=False):
    type: Required[Literal["function"]]
    name: Required[ToolName]
    description: str | None
    parameters: dict[str, Any] | None
    strict: bool | None
    output_schema: dict[str, Any] | None
    defer_loading: bool | None
    allowed_callers: Callers | None


class PlainInput(TypedDict):
    type: Literal["text"]


class GrammarInput(TypedDict):
    type: Literal["grammar"]
    syntax: Literal["lark", "regex"]
    definition: str


class CustomTool(Asynchronous, total=False):
    type: Required[Literal["custom"]]
    name: Required[NonEmpty]
    description: str | None
    format: Annotated[PlainInput | GrammarInput, OneOf()] | None
    defer_loading: bool | None
    allowed_callers: Callers | None


class NamespaceTool(TypedDict):
    type: Literal["namespace"]
    name: NonEmpty
    description: str
    tools: Annotated[
        Many[Annotated[FunctionTool | CustomTool, OneOf()]],
        Field(min_length=1),
        OneOf("an array of tools"),
    ]


class ToolSearchTool(TypedDict, total=False):
    type: Required[Literal["tool_search"]]
    description: str | None
    execution: Literal["server", "client"] | None
    parameters: Any


class Comparison(TypedDict):
    type: Literal["eq", "ne", "gt", "gte", "lt", "lte", "in", "nin"]  # codespell:ignore nin
    key: str
    value: Annotated[
        str | float | bool | list[Annotated[str | float, OneOf("one of a string or a decimal")]],
        OneOf("one of a string, a decimal, a boolean, or an array"),
    ]


class Compound(TypedDict):
    type: Literal["and", "or"]
    filters: "Many[Filter]"


Filter = Annotated[Comparison | Compound, OneOf()]


class HybridSearch(TypedDict):
    embedding_weight: float
    text_weight: float


class RankingOptions(TypedDict, total=False):
    ranker: Literal["auto", "default-2024-11-15"] | None
    score_threshold: Annotated[float, Field(ge=0, le=1)] | None
    hybrid_search: HybridSearch | None


class FileSearchTool(TypedDict, total=False):
    type: Required[Literal["file_search"]]
    vector_store_ids: Required[Strings]
    max_num_results: Annotated[int, Field(ge=1, le=50)] | None
    ranking_options: RankingOptions | None
    filters: Filter | None


class UserLocation(TypedDict, total=False):
    type: Literal["approximate"] | None
    city: str | None
    country: str | None
    region: str | None
    timezone: str | None


class WebSearchFilters(TypedDict, total=False):
    allowed_domains: Strings | None


class WebSearchTool(TypedDict, total=False):
    type: Required[Literal["web_search", "web_search_2025_08_26"]]
    filters: WebSearchFilters | None
    search_context_size: ContextSize | None
    user_location: UserLocation | None
    external_web_access: bool | None


class WebSearchPreviewTool(TypedDict, total=False):
    type: Required[Literal["web_search_preview", "web_search_preview_2025_03_11"]]
    search_content_types: Annotated[Many[Literal["text", "image"]], OneOf("an array of strings")] | None
    search_context_size: ContextSize | None
    user_location: UserLocation | None


class McpToolFilter(TypedDict, total=False):
    tool_names: Strings | None
    read_only: bool | None


class McpApprovalFilter(TypedDict, total=False):
    always: McpToolFilter | None
    never: McpToolFilter | None


class McpTool(TypedDict, total=False):
    type: Required[Literal["mcp"]]
    server_label: Required[str]
    server_url: str | None
    connector_id: (
        Literal[
            "connector_dropbox",
            "connector_gmail",
            "connector_googlecalendar",
            "connector_googledrive",
            "connector_microsoftteams",
            "connector_outlookcalendar",
            "connector_outlookemail",
            "connector_sharepoint",
        ]
        | None
    )
    tunnel_id: Annotated[str, Field(pattern="^tunnel_[a-z0-9]{32}$")] | None
    authorization: str | None
    headers: dict[str, str] | None
    allowed_tools: Annotated[list[str] | McpToolFilter, OneOf("one of an array of strings or object")] | None
    require_approval: (
        Annotated[
            Literal["always", "never"] | McpApprovalFilter, OneOf("one of an object or 'always' or 'never'")
        ]
        | None
    )
    server_description: str | None
    defer_loading: bool | None
    allowed_callers: Callers | None


class CodeInterpreterTool(TypedDict, total=False):
    type: Required[Literal["code_interpreter"]]
    container: Required[Container]
    allowed_callers: Callers | None


class ImageMask(TypedDict, total=False):
    file_id: str | None
    image_url: str | None


class SvgReasoning(TypedDict, total=False):
    effort: Effort | None


class SvgOptions(TypedDict, total=False):
    model: str | None
    reasoning: SvgReasoning | None


class ImageGenerationTool(TypedDict, total=False):
    type: Required[Literal["image_generation"]]
    action: Literal["generate", "edit", "auto"] | None
    background: Literal["transparent", "opaque", "auto"] | None
    complexity: Literal["low", "medium", "high"] | None
    frame_count: int | None
    frame_duration_ms: int | None
    input_fidelity: Literal["high", "low"] | None
    input_image_mask: ImageMask | None
    model: str | None
    moderation: Literal["auto", "low"] | None
    output_compression: Annotated[int, Field(ge=0, le=100)] | None
    output_format: Literal["png", "webp", "jpeg", "gif", "svg"] | None
    partial_images: Annotated[int, Field(ge=0, le=3)] | None
    quality: Literal["low", "medium", "high", "xhigh", "max", "auto"] | None
    size: str | None
    svg: SvgOptions | None


class ComputerTool(TypedDict):
    type: Literal["computer"]


class ComputerUsePreviewTool(TypedDict):
    type: Literal["computer_use_preview"]
    display_width: int
    display_height: int
    environment: Literal["windows", "mac", "linux", "ubuntu", "browser"]


class LocalShellTool(TypedDict):
    type: Literal["local_shell"]


class ShellTool(TypedDict, total=False):
    type: Required[Literal["shell"]]
    environment: ShellEnvironment | None
    allowed_callers: Callers | None


class ApplyPatchTool(TypedDict, total=False):
    type: Required[Literal["apply_patch"]]
    allowed_callers: Callers | None


class ProgrammaticToolCalling(TypedDict):
    type: Literal["programmatic_tool_calling"]


Tool = Annotated[
    FunctionTool
    | CustomTool
    | NamespaceTool
    | ToolSearchTool
    | FileSearchTool
    | WebSearchTool
    | WebSearchPreviewTool
    | Annotated[McpTool, exactly_one("server_url", "connector_id", "tunnel_id")]
    | CodeInterpreterTool
    | ImageGenerationTool
    | ComputerTool
    | ComputerUsePreviewTool
    | LocalShellTool
    | ShellTool
    | ApplyPatchTool
    | ProgrammaticToolCalling,
    OneOf(),
]
Tools = Annotated[Many[Tool], OneOf("an array of tools")]
