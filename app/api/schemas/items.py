"""Input items: messages, reasoning, what steers the context, and the union of all (reference: "Items")."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Required

from pydantic import AfterValidator, Field
from typing_extensions import TypedDict

from app.api.schemas import calls, computers, hosted
from app.api.schemas.bounds import AnyId, CallId, LongText, Many, Status, id_of
from app.api.schemas.content import AgentPart, AssistantPart, MessagePart, OutputText
from app.api.schemas.formats import Effort, TextFormat
from app.api.schemas.tools import Tools
from app.api.schemas.unions import MARK, OneOf, refused
from app.errors import InvalidRequest

CONTENT = OneOf("one of an array of objects or string")


class MessageBase(TypedDict, total=False):
    type: Literal["message"] | None
    id: Annotated[str, id_of("msg")] | None
    status: Status | None


class Message(MessageBase):
    role: Literal["system", "developer", "user"]
    content: Annotated[LongText | Many[MessagePart], CONTENT]


class AssistantMessage(MessageBase, total=False):
    role: Required[Literal["assistant"]]
    content: Required[Annotated[LongText | Many[AssistantPart], CONTENT]]
    phase: Literal["commentary", "final_answer"] | None


AnyMessage = Annotated[
    Message | AssistantMessage,
    OneOf(key="role", listed=("assistant", "system", "developer", "user"), is_blamed_whole=True),
]


class SummaryText(TypedDict):
    type: Literal["summary_text"]
    text: LongText


class ReasoningText(TypedDict):
    type: Literal["reasoning_text"]
    text: LongText


class Reasoning(TypedDict, total=False):
    type: Required[Literal["reasoning"]]
    id: Annotated[str, id_of("rs")] | None
    summary: Required[Many[SummaryText]]
    content: Many[ReasoningText] | None
    encrypted_content: str | None
    status: Status | None


class Compaction(TypedDict, total=False):
    type: Required[Literal["compaction"]]
    id: Annotated[str, id_of("cmp")] | None
    encrypted_content: Required[Annotated[str, Field(max_length=20_971_520)]]
    created_by: str | None


class CompactionTrigger(TypedDict, total=False):
    type: Required[Literal["compaction_trigger"]]
    id: AnyId | None


class ItemReference(TypedDict, total=False):
    type: Literal["item_reference"] | None
    id: Required[AnyId]


class AdditionalTools(TypedDict, total=False):
    type: Required[Literal["additional_tools"]]
    id: AnyId | None
    role: Required[Literal["developer"]]
    tools: Required[Tools]


class UpdatedReasoning(TypedDict, total=False):
    effort: Effort | None


class UpdatedText(TypedDict):
    format: TextFormat


class ConfigurationUpdate(TypedDict, total=False):
    type: Required[Literal["configuration_update"]]
    id: AnyId | None
    reasoning: UpdatedReasoning | None
    text: UpdatedText | None


AgentAction = Literal[
    "spawn_agent", "interrupt_agent", "list_agents", "send_message", "followup_task", "wait_agent"
]


class Agent(TypedDict):
    agent_name: str


class AgentMessage(TypedDict, total=False):
    type: Required[Literal["agent_message"]]
    id: AnyId | None
    author: Required[str]
    recipient: Required[str]
    content: Required[Many[AgentPart]]
    agent: Agent | None


class AgentCall(TypedDict, total=False):
    id: AnyId | None
    call_id: Required[CallId]
    action: Required[AgentAction]
    agent: Agent | None


class MultiAgentCall(AgentCall):
    type: Literal["multi_agent_call"]
    arguments: str


class MultiAgentCallOutput(AgentCall):
    type: Literal["multi_agent_call_output"]
    output: Many[OutputText]


# The live service's list, measured before it learned `configuration_update`.
LISTED = (
    "additional_tools", "agent_message", "apply_patch_call", "apply_patch_call_output",
    "code_interpreter_call", "compaction", "compaction_trigger", "computer_call", "computer_call_output",
    "custom_tool_call", "custom_tool_call_output", "file_search_call", "function_call",
    "function_call_output", "image_generation_call", "item_reference", "local_shell_call",
    "local_shell_call_output", "mcp_approval_request", "mcp_approval_response", "mcp_call",
    "mcp_list_tools", "message", "multi_agent_call", "multi_agent_call_output", "program",
    "program_output", "reasoning", "shell_call", "shell_call_output", "tool_search_call",
    "tool_search_output", "web_search_call",
)  # fmt: skip
KEPT = [name for name in LISTED if name not in {"item_reference", "compaction_trigger"}]


class Items(OneOf):
    """Where `type` is absent, an item with an id alone is a reference, and every other one a message."""

    def tag(self, value: Any) -> str | None:
        if isinstance(value, dict) and value.get("type") is None:
            is_reference = "id" in value and value.keys() <= {"id", "type"}
            return super().tag({"type": "item_reference" if is_reference else "message"})
        return super().tag(value)

    def refuse(self, value: Any, path: str, *, names: Sequence[str]) -> InvalidRequest:
        """Name what is refused, though the client left its name out."""
        if isinstance(value, dict) and value.get("type") is None:
            value = value | {"type": (self.tag(value) or "").removeprefix(MARK)}
        return super().refuse(value, path, names=names)


_Kept = (
    AnyMessage
    | Reasoning
    | calls.FunctionCall
    | Annotated[calls.FunctionCallOutput, calls.OF_SOMETHING]
    | calls.CustomToolCall
    | calls.CustomToolCallOutput
    | calls.LocalShellCall
    | calls.LocalShellCallOutput
    | calls.ShellCall
    | calls.ShellCallOutput
    | calls.ApplyPatchCall
    | calls.ApplyPatchCallOutput
    | computers.ComputerCall
    | computers.ComputerCallOutput
    | calls.Program
    | calls.ProgramOutput
    | calls.ToolSearchCall
    | calls.ToolSearchOutput
    | hosted.FileSearchCall
    | hosted.WebSearchCall
    | hosted.CodeInterpreterCall
    | hosted.ImageGenerationCall
    | hosted.McpListTools
    | hosted.McpCall
    | hosted.McpApprovalRequest
    | hosted.McpApprovalResponse
    | Compaction
    | AdditionalTools
    | ConfigurationUpdate
    | AgentMessage
    | MultiAgentCall
    | MultiAgentCallOutput
)
Item = Annotated[
    _Kept | CompactionTrigger | ItemReference, Items("an input item", listed=LISTED, is_blamed_whole=True)
]
KeptItem = Annotated[_Kept, Items("an input item", listed=KEPT, is_blamed_whole=True)]
"""An item itself: not the name of another one, and not what asks to act on others."""


def _trigger_is_last(items: list[Any]) -> list[Any]:
    """A `compaction_trigger` asks to compact what stands before it (behaviour 45)."""
    for place, item in enumerate(items[:-1]):
        if item.get("type") == "compaction_trigger":
            raise refused(
                lambda _, path, place=place: InvalidRequest(
                    f"Invalid '{path}[{place}]': a 'compaction_trigger' must be the last input item.",
                    code="invalid_value",
                    param=f"{path}[{place}]",
                )
            )
    return items


ItemList = Annotated[Many[Item], AfterValidator(_trigger_is_last)]
