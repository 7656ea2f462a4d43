"""What a request says about which of its tools are called (reference: "tool_choice")."""

from typing import Annotated, Any, Literal, Required

from pydantic import Field
from typing_extensions import TypedDict

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


class AllowedTools(TypedDict):
    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=128)]


ToolChoice = Annotated[
    Literal["none", "auto", "required"]
    | AllowedTools
    | ChosenFunction
    | ChosenCustom
    | ChosenMcp
    | ChosenHosted,
    OneOf("one of an object or 'none', 'auto', or 'required'"),
]
