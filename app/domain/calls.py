"""Which tool calls wait for the client, and whether new input answers them (behaviours 27-30).

Calls and outputs are matched by `call_id` and nothing else. Calls that the server side runs (hosted
tools, MCP, server-side tool search) never wait, nor do approval requests and asynchronous calls.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from app.errors import InvalidRequest

CALLS: Mapping[str, str] = {
    "function_call": "function_call_output",
    "custom_tool_call": "custom_tool_call_output",
    "computer_call": "computer_call_output",
    "local_shell_call": "local_shell_call_output",
    "shell_call": "shell_call_output",
    "apply_patch_call": "apply_patch_call_output",
    "tool_search_call": "tool_search_output",
}
"""From each call that a client may have to run to the type of its output."""

_OUTPUTS = frozenset(CALLS.values())


def open_after(items: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """What a response's output leaves open, in its order: call id to type of call. Kept with the turn."""
    return pair({}, items)[0]


def check(open_before: Mapping[str, str], items: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """Pair the new input with what the parent turn left open (as `open_after` said it then).

    References must be resolved before. Outputs may come in any order, but after a call that is itself
    part of the input (stateless replay).

    Returns:
        The outputs that neither explains: call id to type of output. Their calls may lie further back,
        answered already, which is no error: `check_known` tells, given the older history.

    Raises:
        InvalidRequest: a call stays without its output (behaviours 28 and 29).
    """
    waiting, unexplained = pair(open_before, items)
    if waiting:
        raise InvalidRequest(f"No tool output found for {_named(waiting)}.", param="input")
    return unexplained


def check_known(outputs: Mapping[str, str], history: Iterable[Mapping[str, Any]]) -> None:
    """See that the outputs which `check` could not explain answer calls of the older history.

    Raises:
        InvalidRequest: no call in the context has that id (behaviour 27).
    """
    called = {item.get("call_id") for item in history if item["type"] in CALLS}
    refuse_unknown({call_id: kind for call_id, kind in outputs.items() if call_id not in called})


def refuse_unknown(outputs: Mapping[str, str]) -> None:
    """Refuse outputs (call id to type of output) that answer no call of the context; none is no error.

    Raises:
        InvalidRequest: there is one (behaviour 27).
    """
    if outputs:
        raise InvalidRequest(f"No tool call found for {_named(outputs, 'with call_id ')}.", param="input")


def pair(
    open_before: Mapping[str, str], items: Iterable[Mapping[str, Any]]
) -> tuple[dict[str, str], dict[str, str]]:
    """Pair items with the calls that were open before them, and judge nothing.

    Returns:
        The calls still waiting at the end (call id to type of call, in their order), and the outputs
        whose call is in neither (call id to type of output).
    """
    waiting, seen, unexplained = dict(open_before), set(open_before), dict[str, str]()
    for item in items:
        if item["type"] in CALLS:
            seen.add(item.get("call_id", ""))
            if _waits(item):
                waiting[item["call_id"]] = item["type"]
        elif name := answered(item):
            waiting.pop(name, None)
            if name not in seen:
                unexplained[name] = item["type"]
    return waiting, unexplained


def answered(item: Mapping[str, Any]) -> str | None:
    """The call id that an output answers; None for other items, and for outputs that name their tool
    instead of a call.
    """
    kind = item["type"]
    if kind not in _OUTPUTS or (kind == "tool_search_output" and item.get("execution") == "server"):
        return None
    # The schema gives this one output no call_id: its id is the call's.
    return item.get("call_id") or (item["id"] if kind == "local_shell_call_output" else None)


def _waits(item: Mapping[str, Any]) -> bool:
    """Whether this call is the client's to run and must be answered in the next turn."""
    kind = item["type"]
    if not item.get("call_id") or item.get("async"):
        return False
    if kind == "tool_search_call":
        return item.get("execution") == "client"
    # A shell with a container is hosted; without an environment, or with a local one, it is the client's.
    return kind != "shell_call" or (item.get("environment") or {}).get("type", "local") == "local"


def _named(calls: Mapping[str, str], before_ids: str = "") -> str:
    """The first one's type in words, then all ids."""
    words = next(iter(calls.values())).replace("_", " ")
    return f"{words} {before_ids}{', '.join(calls)}"
