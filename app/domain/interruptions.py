"""Results for tool calls whose client went away before it had any (`on_open_tool_calls = "interrupt"`)."""

from collections.abc import Callable, Mapping
from typing import Any

from app.domain.calls import CALLS
from app.errors import InvalidRequest

TEXT = "[interrupted] The client ended before it returned a result for this tool call."
"""What the model and every later reader see in the place of a result."""


def outputs(open_calls: Mapping[str, str]) -> list[dict[str, Any]]:
    """One result for each open call (call id to type of call), in their order, ready to be stored.

    In the resource form but for the id, which `items.prepend` mints; a local shell's output has one,
    since its id is its call's. The status is `incomplete`, but `failed` for a patch, which knows no other
    that is true.

    Raises:
        InvalidRequest: a call waits for a screenshot, and words cannot stand for one.
    """
    for call_id, kind in open_calls.items():
        if kind not in _RESULTS:
            raise InvalidRequest(
                f"No tool output found for {kind.replace('_', ' ')} {call_id}. It cannot be filled in as "
                "interrupted, because its output is a screenshot. Send its output in your input.",
                param="input",
            )
    return [_output(call_id, kind) for call_id, kind in open_calls.items()]


def _output(call_id: str, kind: str) -> dict[str, Any]:
    head = {"type": CALLS[kind], "status": "incomplete"}
    named = {"id": call_id, **head} if kind == "local_shell_call" else {**head, "call_id": call_id}
    return {**named, **_RESULTS[kind]()}


# Made anew each time: a result belongs to one item.
_RESULTS: Mapping[str, Callable[[], dict[str, Any]]] = {
    "function_call": lambda: {"output": TEXT},
    "custom_tool_call": lambda: {"output": TEXT},
    "local_shell_call": lambda: {"output": TEXT},
    # Of the two outcomes there are, only this one does not say that the commands ended.
    "shell_call": lambda: {"output": [{"stdout": "", "stderr": TEXT, "outcome": {"type": "timeout"}}]},
    "apply_patch_call": lambda: {"status": "failed", "output": TEXT},
    "tool_search_call": lambda: {"execution": "client", "tools": []},
}
"""What each type of output says beside its head. A tool search has no place for words: it found nothing."""
