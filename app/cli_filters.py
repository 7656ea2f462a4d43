"""The filters of responses as options of a command, each by the name that a query has for it."""

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

import orjson
import typer

from app import ids
from app.api.response_filters import parse_time
from app.domain.export import given
from app.domain.response import Status
from app.domain.search import Filters
from app.errors import InvalidRequest
from app.settings import ConfigurationError


class StatusName(StrEnum):
    """How a response may have ended; one that has not is in no export."""

    COMPLETED = "completed"
    INCOMPLETE = "incomplete"
    FAILED = "failed"
    CANCELLED = "cancelled"


Model = Annotated[str | None, typer.Option(help="Only of this model, as it was resolved.")]
Ended = Annotated[StatusName | None, typer.Option("--status", help="Only those that ended like this.")]
From = Annotated[
    str | None, typer.Option(metavar="TIME", help="ISO 8601, UTC where it names no zone; inclusive.")
]
Until = Annotated[str | None, typer.Option(metavar="TIME", help="The same; exclusive.")]
Conversation = Annotated[str | None, typer.Option(metavar="ID", help="Only made in this one.")]
Previous = Annotated[str | None, typer.Option(metavar="ID", help="Only chained on this response.")]
Root = Annotated[
    str | None, typer.Option(metavar="ID", help="Only going back to this response or conversation.")
]
User = Annotated[str | None, typer.Option(help="Only with this `user`.")]
Safety = Annotated[str | None, typer.Option(help="Only with this `safety_identifier`.")]
Pairs = Annotated[
    list[str] | None, typer.Option(metavar="KEY=VALUE", help="Only with this pair. Repeatable.")
]
Background = Annotated[bool | None, typer.Option("--background/--foreground", help="Only such responses.")]
ErrorCode = Annotated[str | None, typer.Option(help="Only failed with this code.")]
Tool = Annotated[str | None, typer.Option(help="Only that called this tool.")]
Attempts = Annotated[
    int | None, typer.Option(min=0, max=1000, help="Only that took more attempts than this.")
]
Words = Annotated[
    str | None, typer.Option("--query", "-q", help='Only with these words; `"a phrase"`, `or`, `-not`.')
]


_IDS: Mapping[str, tuple[Callable[[str], UUID | None], ...]] = {
    "conversation": (ids.parse_conversation_id,),
    "previous_response_id": (ids.parse_response_id,),
    "root": (ids.parse_response_id, ids.parse_conversation_id),
}


def of(**options: Any) -> Filters:
    """The filters that a command's options are, each by its name.

    Raises:
        ConfigurationError: one is nothing that a response could have.
    """
    status: StatusName | None = options["status"]
    filters = Filters(
        model=options["model"],
        status=Status[status.name] if status else None,
        created_after=_time(options, "created_after"),
        created_before=_time(options, "created_before"),
        conversation=_id(options, "conversation"),
        previous=_id(options, "previous_response_id"),
        root=_id(options, "root"),
        user=options["user"],
        safety_identifier=options["safety_identifier"],
        metadata=dict(_pair(each) for each in options["metadata"] or ()),
        is_background=options["background"],
        error_code=options["error_code"],
        tool=options["tool"],
        attempts_over=options["has_attempts_over"],
        words=options["query"],
    )
    _check_text(filters)
    return filters


def _time(options: Mapping[str, Any], name: str) -> Any:
    text: str | None = options[name]
    try:
        return None if text is None else parse_time(_option(name), text)
    except InvalidRequest as error:
        raise ConfigurationError(str(error)) from error


def _id(options: Mapping[str, Any], name: str) -> UUID | None:
    text: str | None = options[name]
    if text is None:
        return None
    key = next((key for parse in _IDS[name] if (key := parse(text))), None)
    if key is None:
        raise ConfigurationError(f"{_option(name)}: nothing can have the id {text!r}")
    return key


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _pair(text: str) -> tuple[str, str]:
    key, separator, value = text.partition("=")
    if not separator:
        raise ConfigurationError(f"--metadata: expected KEY=VALUE, not {text!r}")
    return key, value


def _check_text(filters: Filters) -> None:
    """Refuse bytes that are no text, which a terminal may send."""
    try:
        orjson.dumps(given(filters))
    except TypeError:
        raise ConfigurationError("a filter is no UTF-8 text") from None
