"""What a request says about which of its tools are called (reference: "tool_choice")."""

from typing import Annotated, Literal, Required

from pydantic import Field
from typing_extensions import TypedDict

from app.api.schemas.bounds import OPEN, Many
from app.api.schemas.unions import OneOf


class ChosenFunction(TypedDict):
    type: Literal["function"]
    name: str


class ChosenCustom(TypedDict):
    type: Literal["custom"]
    name: str


class ChosenMcp(TypedDict, total=False):
    type: Required[Literal["mcp"]]
    server_label: Required[str]
    name: str | None


class ChosenHosted(TypedDict):
    type: Literal[
        "file_search",
        "web_search_preview",
        "web_search_preview_2025_03_11",
        "computer",
        "computer_use",
        "computer_use_preview",
        "image_generation",
        "code_interpreter",
        "apply_patch",
        "shell",
        "programmatic_tool_calling",
    ]


@OPEN
class AllowedTool(TypedDict, total=False):
    """The name of a tool. Clients send whole definitions as well, which say no more."""

    type: Required[str]
    name: str | None
    namespace: str | None
    server_label: str | None


class AllowedTools(TypedDict):
    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[Many[AllowedTool], Field(min_length=1, max_length=128)]


ToolChoice = Annotated[
    Literal["none", "auto", "required"]
    | AllowedTools
    | ChosenFunction
    | ChosenCustom
    | ChosenMcp
    | ChosenHosted,
    OneOf("one of an object or 'none', 'auto', or 'required'"),
]
