"""What each kind of tool call was asked, and what each kind of output says. Pure, and total.

Fields are those of the reference; a call of a kind that is not known is shown as the JSON that it is.
"""

from collections.abc import Callable, Mapping

from app.ui.markdown import is_abroad
from app.ui.pieces import (
    Allowance,
    Json,
    Piece,
    as_text,
    clipped,
    field,
    lines,
    objects,
    of_content,
    of_picture_data,
)

_NOT_SHOWN = {"id", "type", "status", "call_id"}


def asked(item: Json, allowance: Allowance) -> list[Piece]:
    """The request of a call."""
    show = _ASKED.get(as_text(item.get("type")))
    return show(item, allowance) if show else [allowance.folded("Details", _rest(item))]


def answered(item: Json, allowance: Allowance) -> list[Piece]:
    """What an output says, or what a call says that carries its own."""
    show = _ANSWERED.get(as_text(item.get("type")))
    return show(item, allowance) if show else []


def output_of(item: Json, allowance: Allowance) -> list[Piece]:
    """The content of an item that is an output and nothing else."""
    if as_text(item.get("type")) in _ANSWERED:
        return answered(item, allowance)
    return [allowance.folded("Details", _rest(item))]


def name_of(item: Json) -> str:
    """What was called: a function's name, a server's tool, an operation."""
    action, operation = item.get("action"), field(item, "operation")
    name = as_text(item.get("name")) or (
        action if isinstance(action, str) else as_text(operation.get("type"))
    )
    return clipped(" · ".join(part for part in (as_text(item.get("server_label")), name) if part))


def _rest(item: Json) -> Json:
    return {name: value for name, value in item.items() if name not in _NOT_SHOWN}


def _arguments(item: Json, allowance: Allowance) -> list[Piece]:
    return [allowance.code("", item.get("arguments") or "{}")]


def _custom(item: Json, allowance: Allowance) -> list[Piece]:
    return [allowance.code("", as_text(item.get("input")))]


def _command(item: Json, allowance: Allowance) -> list[Piece]:
    command = field(item, "action").get("command")
    joined = " ".join(as_text(word) for word in command) if isinstance(command, list) else as_text(command)
    return [allowance.code("", joined)]


def _commands(item: Json, allowance: Allowance) -> list[Piece]:
    return [allowance.code("", lines(field(item, "action").get("commands")))]


def _patch(item: Json, allowance: Allowance) -> list[Piece]:
    operation = field(item, "operation")
    path = clipped(as_text(operation.get("path")))
    if "diff" not in operation:
        return [Piece("note", path)]
    return [allowance.code(path, as_text(operation["diff"]))]


def _computer(item: Json, allowance: Allowance) -> list[Piece]:
    return [allowance.code("", item.get("actions") or item.get("action"))]


def _web_search(item: Json, allowance: Allowance) -> list[Piece]:
    action = field(item, "action")
    sought = action.get("queries") or [action.get("query") or action.get("pattern") or ""]
    pieces = [Piece("note", text)] if (text := allowance.cut(clipped(lines(sought), 1000))[0]) else []
    urls = [
        as_text(action.get("url")),
        *(as_text(each.get("url")) for each in objects(action.get("sources"))),
    ]
    links = [Piece("link", clipped(url), url=url) for url in urls[:50] if is_abroad(url)]
    return pieces + links


def _file_search(item: Json, allowance: Allowance) -> list[Piece]:
    return [Piece("note", allowance.cut(clipped(lines(item.get("queries")), 1000))[0])]


def _found_files(item: Json, allowance: Allowance) -> list[Piece]:
    return [
        allowance.folded(
            clipped(as_text(found.get("filename") or found.get("file_id"))), as_text(found.get("text"))
        )
        for found in objects(item.get("results"))[:50]
    ]


def _code(item: Json, allowance: Allowance) -> list[Piece]:
    return [allowance.code("", as_text(item.get("code")))]


def _code_outputs(item: Json, allowance: Allowance) -> list[Piece]:
    return [
        allowance.image(each.get("url"))
        if each.get("type") == "image"
        else allowance.code("Logs", as_text(each.get("logs")))
        for each in objects(item.get("outputs"))
    ]


def _image(item: Json, allowance: Allowance) -> list[Piece]:
    prompt = item.get("revised_prompt")
    return [allowance.plain(prompt)] if prompt else []


def _made_image(item: Json, allowance: Allowance) -> list[Piece]:
    pieces = (
        [of_picture_data(item["result"], item.get("output_format"), allowance)] if item.get("result") else []
    )
    return pieces + _error(item, allowance)


def _mcp_output(item: Json, allowance: Allowance) -> list[Piece]:
    output = item.get("output")
    return ([allowance.code("", output)] if output else []) + _error(item, allowance)


def _error(item: Json, allowance: Allowance) -> list[Piece]:
    return [allowance.code("Error", item["error"])] if item.get("error") else []


def _tools(item: Json, allowance: Allowance) -> list[Piece]:
    names = [as_text(tool.get("name") or tool.get("type")) for tool in objects(item.get("tools"))]
    return [
        Piece("note", allowance.cut(clipped(", ".join(names), 1000))[0] or "no tools"),
        allowance.folded("Definitions", item.get("tools")),
        *_error(item, allowance),
    ]


def _approval(item: Json, allowance: Allowance) -> list[Piece]:
    reason = as_text(item.get("reason"))
    decided = "Approved" if item.get("approve") is True else "Not approved"
    return [Piece("note", decided + (f": {allowance.cut(clipped(reason, 1000))[0]}" if reason else ""))]


def _output(item: Json, allowance: Allowance) -> list[Piece]:
    """Text, JSON in a text, or parts."""
    output = item.get("output")
    if isinstance(output, list):
        return of_content(output, allowance)
    return [allowance.code("", output)] if output is not None else []


def _screenshot(item: Json, allowance: Allowance) -> list[Piece]:
    return [allowance.image(field(item, "output").get("image_url"), "Screenshot")]


def _shell_output(item: Json, allowance: Allowance) -> list[Piece]:
    pieces = list[Piece]()
    for each in objects(item.get("output")):
        outcome = field(each, "outcome")
        ended = (
            "timed out" if outcome.get("type") == "timeout" else f"exit {as_text(outcome.get('exit_code'))}"
        )
        pieces += [
            allowance.code(name, as_text(each[name])) for name in ("stdout", "stderr") if each.get(name)
        ]
        pieces.append(Piece("note", clipped(ended)))
    return pieces


def _result(item: Json, allowance: Allowance) -> list[Piece]:
    return [allowance.code("", as_text(item.get("result")))]


_Show = Callable[[Json, Allowance], list[Piece]]

_ASKED: Mapping[str, _Show] = {
    "function_call": _arguments,
    "custom_tool_call": _custom,
    "local_shell_call": _command,
    "shell_call": _commands,
    "apply_patch_call": _patch,
    "computer_call": _computer,
    "tool_search_call": _arguments,
    "mcp_call": _arguments,
    "mcp_approval_request": _arguments,
    "multi_agent_call": _arguments,
    "web_search_call": _web_search,
    "file_search_call": _file_search,
    "code_interpreter_call": _code,
    "image_generation_call": _image,
    "program": _code,
}

_ANSWERED: Mapping[str, _Show] = {
    "function_call_output": _output,
    "custom_tool_call_output": _output,
    "local_shell_call_output": _output,
    "apply_patch_call_output": _output,
    "multi_agent_call_output": _output,
    "computer_call_output": _screenshot,
    "shell_call_output": _shell_output,
    "tool_search_output": _tools,
    "program_output": _result,
    "mcp_call": _mcp_output,
    "mcp_list_tools": _tools,
    "mcp_approval_response": _approval,
    "file_search_call": _found_files,
    "code_interpreter_call": _code_outputs,
    "image_generation_call": _made_image,
}

CALLS = frozenset(_ASKED)
