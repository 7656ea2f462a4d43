"""From items to the messages of Chat Completions.

Reasoning items are left out: the protocol has no place for them, and as text they would be mistaken for
something that was said (behaviour 35). Whatever else has no counterpart is refused by name.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from app.errors import InvalidRequest

Item = Mapping[str, Any]
Message = dict[str, Any]


def unsupported(path: str, value: str | None = None) -> InvalidRequest:
    """The refusal of the parameter at `path`, in OpenAI's words."""
    detail = f" Its value is '{value}'." if value else ""
    return InvalidRequest(
        f"Unsupported parameter: '{path}' is not supported with this model.{detail}",
        code="unsupported_parameter",
        param=path,
    )


def messages(instructions: str | None, items: Sequence[Item]) -> list[Message]:
    """All messages, oldest first.

    Raises:
        InvalidRequest: naming `input[i]` of `items`, where there is no message for it.
    """
    said: list[Message] = [{"role": "system", "content": instructions}] if instructions else []
    for place, item in enumerate(items):
        kind = item.get("type", "message")
        add = _ADDERS.get(kind)
        if add is None:
            raise unsupported(f"input[{place}].type", kind)
        add(said, item, f"input[{place}]")
    return said


def _add_nothing(_said: list[Message], _item: Item, _path: str) -> None:
    """Leave a reasoning item out."""


def _add_message(said: list[Message], item: Item, path: str) -> None:
    if item.get("role") == "assistant":
        _add_assistant(said, item, path)
        return
    # Few chat templates know the newer name of the system's role.
    role = "user" if item.get("role") == "user" else "system"
    content = item.get("content") or ""
    said.append({"role": role, "content": _content(content, f"{path}.content", _INPUT_PARTS)})


def _add_assistant(said: list[Message], item: Item, path: str) -> None:
    """Join the text to calls that wait for their outputs: nothing may stand between the two."""
    spoken = _spoken(item.get("content") or "", f"{path}.content")
    last = said[-1] if said else {}
    if last.get("role") == "assistant" and last.get("tool_calls"):
        last["content"] = "\n\n".join(text for text in (last["content"], spoken["content"]) if text) or None
        last.update({key: spoken[key] for key in spoken if key == "refusal"})
    else:
        said.append(spoken)


def _spoken(content: str | Sequence[Item], path: str) -> Message:
    if isinstance(content, str):
        return {"role": "assistant", "content": content}
    texts: list[str] = []
    refusals: list[str] = []
    for place, part in enumerate(content):
        kind = part.get("type", "")
        if kind in {"output_text", "input_text", "text"}:
            texts.append(part.get("text") or "")
        elif kind == "refusal":
            refusals.append(part.get("refusal") or "")
        else:
            raise unsupported(f"{path}[{place}].type", kind)
    message: Message = {"role": "assistant", "content": "".join(texts) if texts else None}
    if refusals:
        message["refusal"] = "".join(refusals)
    elif not texts:
        message["content"] = ""
    return message


def _add_function_call(said: list[Message], item: Item, path: str) -> None:
    function = {"name": item.get("name"), "arguments": item.get("arguments") or "{}"}
    _add_call(said, item, path, {"type": "function", "function": function})


def _add_custom_call(said: list[Message], item: Item, path: str) -> None:
    custom = {"name": item.get("name"), "input": item.get("input") or ""}
    _add_call(said, item, path, {"type": "custom", "custom": custom})


def _add_call(said: list[Message], item: Item, path: str, call: dict[str, Any]) -> None:
    """One assistant message holds its text and all calls made beside it."""
    if item.get("namespace") is not None:
        raise unsupported(f"{path}.namespace")
    if not said or said[-1]["role"] != "assistant":
        said.append({"role": "assistant", "content": None})
    said[-1].setdefault("tool_calls", []).append({"id": item.get("call_id"), **call})


def _add_output(said: list[Message], item: Item, path: str) -> None:
    if not item.get("call_id"):
        raise unsupported(f"{path}.name")
    content = _content(item.get("output") or "", f"{path}.output", _OUTPUT_PARTS)
    said.append({"role": "tool", "tool_call_id": item["call_id"], "content": content})


def _content(
    content: str | Sequence[Item], path: str, parts: Mapping[str, Callable[[Item, str], dict[str, Any]]]
) -> str | list[dict[str, Any]]:
    """A lone text becomes a plain string, which every upstream and chat template understands."""
    if isinstance(content, str):
        return content
    made: list[dict[str, Any]] = []
    for place, part in enumerate(content):
        kind = part.get("type", "")
        make = parts.get(kind)
        if make is None:
            raise unsupported(f"{path}[{place}].type", kind)
        made.append(make(part, f"{path}[{place}]"))
    if len(made) == 1 and made[0].keys() == {"type", "text"}:
        return made[0]["text"]
    return made


def _text_part(part: Item, _path: str) -> dict[str, Any]:
    return {"type": "text", "text": part.get("text") or "", **_breakpoint(part)}


def _image_part(part: Item, path: str) -> dict[str, Any]:
    if part.get("file_id"):
        raise unsupported(f"{path}.file_id")
    if part.get("detail") == "original":
        raise unsupported(f"{path}.detail", "original")
    image = {"url": part.get("image_url")}
    if part.get("detail"):
        image["detail"] = part["detail"]
    return {"type": "image_url", "image_url": image, **_breakpoint(part)}


def _file_part(part: Item, path: str) -> dict[str, Any]:
    if part.get("file_url"):
        raise unsupported(f"{path}.file_url")
    if part.get("detail") not in {None, "auto"}:
        raise unsupported(f"{path}.detail", part["detail"])
    file = {key: part[key] for key in ("file_id", "file_data", "filename") if part.get(key)}
    return {"type": "file", "file": file, **_breakpoint(part)}


def _audio_part(part: Item, _path: str) -> dict[str, Any]:
    return {"type": "input_audio", "input_audio": part.get("input_audio"), **_breakpoint(part)}


def _breakpoint(part: Item) -> dict[str, Any]:
    mark = part.get("prompt_cache_breakpoint")
    return {} if mark is None else {"prompt_cache_breakpoint": mark}


_INPUT_PARTS: Mapping[str, Callable[[Item, str], dict[str, Any]]] = {
    "input_text": _text_part,
    "output_text": _text_part,
    "input_image": _image_part,
    "input_file": _file_part,
    "input_audio": _audio_part,
}

_OUTPUT_PARTS: Mapping[str, Callable[[Item, str], dict[str, Any]]] = {
    "input_text": _text_part,
    "output_text": _text_part,
}

_ADDERS: Mapping[str, Callable[[list[Message], Item, str], None]] = {
    "message": _add_message,
    "reasoning": _add_nothing,
    "function_call": _add_function_call,
    "function_call_output": _add_output,
    "custom_tool_call": _add_custom_call,
    "custom_tool_call_output": _add_output,
}
