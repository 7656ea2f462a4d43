"""From a create that refers to a prompt to one that says everything itself."""

from collections.abc import Mapping
from typing import Any

from app.domain import prompts as domain
from app.domain.prompts import Prompt, Template, Version
from app.domain.tenancy import Caller
from app.domain.tool_secrets import secrets_in
from app.errors import InvalidRequest, NotFound
from app.store import prompts
from app.store.db import Database, ReadTx

Params = Mapping[str, Any]

_MOST_CHARS = 100
_NOT_PARAMETERS = frozenset({"instructions", "messages"})


async def resolve(
    db: Database, caller: Caller, params: Params, *, default_model: str | None, max_bytes: int
) -> dict[str, Any]:
    """The parameters of a create with those of its prompt beneath them, and the prompt rendered.

    What the request says goes before what the template says, each parameter as a whole; null says nothing.
    What was rendered is kept beside the `prompt` parameter, so that a worker needs no template.

    Args:
        default_model: for where neither names one.
        max_bytes: of what the variables come to.

    Raises:
        NotFound: there is no such prompt, or no such version of it.
        InvalidRequest: the variables do not fit, or nobody names a model.
    """
    asked = params["prompt"]
    async with db.read(caller) as tx:
        _, version = await read(tx, asked["id"], asked.get("version"))
    instructions: str | None = params.get("instructions")
    rendered = _render(version.template, asked.get("variables") or {}, instructions, max_bytes)
    beneath = {name: each for name, each in version.template.items() if name not in _NOT_PARAMETERS}
    own = {name: value for name, value in params.items() if value is not None}
    resolved = {**asked, "version": str(version.number)}
    if rendered:
        own.pop("instructions", None)
        resolved[domain.RENDERED] = [*domain.instructed(instructions), *rendered]
    merged = {**beneath, **own, "prompt": resolved}
    if merged.setdefault("model", default_model) is None:
        raise InvalidRequest(
            "Missing required parameter: 'model'.", code="missing_required_parameter", param="model"
        )
    return merged


def refuse_secrets(template: Template, *, path: str = "") -> None:
    """Templates are stored and shown, so a secret must not be in one (behaviour 42).

    Raises:
        InvalidRequest: it names the first one, under `path`.
    """
    if secrets := secrets_in(template):
        name = f"{path}{secrets[0].place}"
        raise InvalidRequest(
            f"Unsupported parameter: '{name}'. Templates are stored, so they cannot carry secrets. "
            "Send this tool in the 'tools' of the request instead.",
            code="unsupported_parameter",
            param=name,
        )


def number_of(version: str) -> int | None:
    """The number of a version as clients name it, or None: there can be none of this name."""
    if not version.isascii() or not version.isdecimal() or version.startswith("0") or len(version) > 10:
        return None
    return number if (number := int(version)) <= prompts.MAX_NUMBER else None


def not_found(prompt_id: str, version: str | None = None) -> NotFound:
    """The same words whether it never was, was deleted, or is another tenant's (law L7)."""
    which = "" if version is None else f" and version '{clip(version)}'"
    return NotFound(f"Prompt with id '{clip(prompt_id)}'{which} not found.")


def clip(text: str) -> str:
    """What a client has sent as an error repeats it: never megabytes."""
    return text if len(text) <= _MOST_CHARS else f"{text[:_MOST_CHARS]}…"


async def read(tx: ReadTx, prompt_id: str, version: str | None = None) -> tuple[Prompt, Version]:
    """A prompt and one of its versions, by default its default.

    Raises:
        NotFound: one of them is not there.
    """
    wanted = None if version is None else number_of(version) or 0
    found = await prompts.find(tx, prompt_id, wanted) if domain.is_id(prompt_id) else None
    if found is None:
        raise not_found(prompt_id)
    if found[1] is None:
        raise not_found(prompt_id, version)
    return found[0], found[1]


def _render(
    template: Template, variables: Mapping[str, Any], instructions: str | None, max_bytes: int
) -> list[domain.Message]:
    try:
        return domain.render(template, variables, is_instructed=instructions is not None, max_bytes=max_bytes)
    except domain.WrongVariable as error:
        raise _wrong(error) from None
    except domain.TooLarge as error:
        raise InvalidRequest(
            "Invalid 'prompt.variables': too large. Together, as often as the template has them, they may be "
            f"at most {max_bytes} bytes, but they are {error.size} bytes.",
            code="string_above_max_length",
            param="prompt.variables",
        ) from None


def _wrong(error: domain.WrongVariable) -> InvalidRequest:
    path = f"prompt.variables.{clip(error.variable)}"
    match error:
        case domain.Missing():
            return InvalidRequest(
                f"Missing required parameter: '{path}'.", code="missing_required_parameter", param=path
            )
        case domain.Unknown():
            return InvalidRequest(f"Unknown parameter: '{path}'.", code="unknown_parameter", param=path)
        case _:
            return InvalidRequest(
                f"Invalid '{path}': only text can stand in a message of the assistant.",
                code="invalid_value",
                param=path,
            )
