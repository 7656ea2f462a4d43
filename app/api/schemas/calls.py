"""Items that a client's own tools answer: functions, custom tools, shells, patches, computers, programs."""

from typing import Annotated, Any, Literal, Required

from pydantic import AfterValidator
from typing_extensions import TypedDict

from app.api.schemas import refusals
from app.api.schemas.bounds import (
    AnyId,
    CallId,
    CallName,
    LongText,
    Many,
    NonEmpty,
    ShortName,
    Strings,
    id_of,
)
from app.api.schemas.content import ToolOutput
from app.api.schemas.environments import ShellCallEnvironment
from app.api.schemas.made import Caller, Made
from app.api.schemas.tools import Asynchronous, Tools
from app.api.schemas.unions import OneOf, refused


class FunctionCall(Made, Asynchronous, total=False):
    type: Required[Literal["function_call"]]
    id: Annotated[str, id_of("fc")] | None
    call_id: Required[CallId]
    name: Required[CallName]
    arguments: Required[str]
    namespace: str | None


class FunctionCallOutput(Made, total=False):
    type: Required[Literal["function_call_output"]]
    id: Annotated[str, id_of("fc")] | None
    call_id: CallId | None
    output: Required[ToolOutput]
    name: CallName | None
    namespace: ShortName | None


def _is_of_something(output: FunctionCallOutput) -> FunctionCallOutput:
    if output.get("call_id") is None and output.get("name") is None:
        raise refused(lambda _, path: refusals.missing(f"{path}.call_id"))
    return output


OF_SOMETHING = AfterValidator(_is_of_something)
"""Demand that an output says which call it answers, or else of which tool it is."""


class CustomToolCall(Made, Asynchronous, total=False):
    type: Required[Literal["custom_tool_call"]]
    id: Annotated[str, id_of("ctc")] | None
    call_id: Required[CallId]
    name: Required[NonEmpty]
    input: Required[str]
    namespace: str | None


class CustomToolCallOutput(Made, total=False):
    type: Required[Literal["custom_tool_call_output"]]
    id: Annotated[str, id_of("ctc", "fc")] | None
    call_id: Required[CallId]
    output: Required[ToolOutput]


class LocalShellAction(TypedDict, total=False):
    type: Required[Literal["exec"]]
    command: Required[Strings]
    env: dict[str, str] | None
    timeout_ms: int | None
    user: str | None
    working_directory: str | None


class LocalShellCall(Made, total=False):
    type: Required[Literal["local_shell_call"]]
    id: AnyId | None
    call_id: Required[CallId]
    action: Required[LocalShellAction]


class LocalShellCallOutput(Made, total=False):
    type: Required[Literal["local_shell_call_output"]]
    id: Required[AnyId]
    output: Required[str]


class ShellAction(TypedDict, total=False):
    commands: Required[Strings]
    timeout_ms: int | None
    max_output_length: int | None


class ShellCall(Made, total=False):
    type: Required[Literal["shell_call"]]
    id: Annotated[str, id_of("sh")] | None
    call_id: Required[CallId]
    action: Required[ShellAction]
    environment: ShellCallEnvironment | None


class TimedOut(TypedDict):
    type: Literal["timeout"]


class Exited(TypedDict):
    type: Literal["exit"]
    exit_code: int


class ShellOutput(TypedDict, total=False):
    stdout: Required[LongText]
    stderr: Required[LongText]
    outcome: Required[Annotated[TimedOut | Exited, OneOf()]]
    created_by: str | None


class ShellCallOutput(Made, total=False):
    type: Required[Literal["shell_call_output"]]
    id: Annotated[str, id_of("sh", "fc")] | None
    call_id: Required[CallId]
    output: Required[Many[ShellOutput]]
    max_output_length: int | None


class CreateFile(TypedDict):
    type: Literal["create_file"]
    path: NonEmpty
    diff: LongText


class UpdateFile(TypedDict):
    type: Literal["update_file"]
    path: NonEmpty
    diff: LongText


class DeleteFile(TypedDict):
    type: Literal["delete_file"]
    path: NonEmpty


class Patched(TypedDict, total=False):
    id: AnyId | None
    call_id: Required[CallId]
    caller: Caller | None
    created_by: str | None


class ApplyPatchCall(Patched, total=False):
    type: Required[Literal["apply_patch_call"]]
    operation: Required[Annotated[CreateFile | UpdateFile | DeleteFile, OneOf()]]
    status: Required[Literal["in_progress", "completed"]]


class ApplyPatchCallOutput(Patched, total=False):
    type: Required[Literal["apply_patch_call_output"]]
    status: Required[Literal["completed", "failed"]]
    output: LongText | None


class Program(TypedDict):
    type: Literal["program"]
    id: AnyId
    call_id: CallId
    code: LongText
    fingerprint: LongText


class ProgramOutput(TypedDict):
    type: Literal["program_output"]
    id: AnyId
    call_id: CallId
    result: LongText
    status: Literal["completed", "incomplete"]


class ToolSearchCall(Made, total=False):
    type: Required[Literal["tool_search_call"]]
    id: Annotated[str, id_of("tsc")] | None
    call_id: CallId | None
    arguments: Required[Any]
    execution: Literal["server", "client"] | None


class ToolSearchOutput(Made, total=False):
    type: Required[Literal["tool_search_output"]]
    id: Annotated[str, id_of("tso", "tsc", "fc")] | None
    call_id: CallId | None
    tools: Required[Tools]
    execution: Literal["server", "client"] | None
