"""Strings with the limits that the reference gives them (surface, Appendix A), and bodies."""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import ConfigDict, Field, with_config

from app.api.schemas.unions import OneOf

T = TypeVar("T")

Many = Annotated[list[T], Field(fail_fast=True)]
"""A list that is checked up to its first error: a reply holds no more than one."""

STRICT = ConfigDict(extra="forbid", strict=True)
OPEN = with_config(ConfigDict(extra="allow", strict=True))
"""An object that may hold more than the reference knows."""
BODY = with_config({**STRICT, "defer_build": True})
"""A body other than a create's. The first who sends one has its validator built, in a tenth of a second at
most. They share nothing: together they are eight megabytes, which a process that is never asked does without.
"""

NAME = "^[a-zA-Z0-9_-]+$"
URL = "^(?i:https?://|data:)"
# The tail of every id's pattern, by which an error knows it; before it stand the prefixes.
ID_TAIL = "[A-Za-z0-9_-]*$"

MAX_INPUT = 10_485_760
"""Characters of a string `input`, and of most texts within an item."""

LongText = Annotated[str, Field(max_length=MAX_INPUT)]
NonEmpty = Annotated[str, Field(min_length=1)]
CallId = Annotated[str, Field(min_length=1, max_length=64)]
CallName = Annotated[str, Field(min_length=1, max_length=128)]
"""The name in a call: what a model of any upstream has written, so without a pattern."""
ToolName = Annotated[str, Field(min_length=1, max_length=128, pattern=NAME)]
ShortName = Annotated[str, Field(min_length=1, max_length=64, pattern=NAME)]
ImageUrl = Annotated[str, Field(max_length=20_971_520, pattern=URL)]
FileUrl = Annotated[str, Field(pattern=URL)]
Strings = Annotated[Many[str], OneOf("an array of strings")]
Status = Literal["in_progress", "completed", "incomplete"]


def id_of(*prefixes: str) -> Any:
    """Bound an id that a client sends back: at most 64 of `[A-Za-z0-9_-]`, beginning as its type's ids do.

    Without prefixes, for types whose prefix the reference does not document, the characters alone count:
    another server's items can then be replayed.
    """
    start = f"(?:{'|'.join(prefixes)})" if prefixes else "[A-Za-z0-9]"
    return Field(max_length=64, pattern=f"^{start}{ID_TAIL}")


AnyId = Annotated[str, id_of()]
