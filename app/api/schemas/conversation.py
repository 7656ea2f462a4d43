"""The bodies of requests to conversations. The order of the fields is the order in which they are checked."""

from typing import Annotated, Any

from pydantic import AfterValidator, Field, TypeAdapter
from typing_extensions import TypedDict

from app.api.schemas import refusals
from app.api.schemas.bounds import BODY, AnyId, Many
from app.api.schemas.create import Metadata
from app.api.schemas.items import KeptItem
from app.api.schemas.unions import refused
from app.errors import InvalidRequest

MAX_ITEMS = 20
"""In one request (surface notes §9)."""

_NUL = "\0"


def without_nul(text: str) -> str:
    """The text, if the database can hold it."""
    if _NUL in text:
        raise refused(lambda _, path: nul(path))
    return text


def _metadata_without_nul(metadata: dict[str, str]) -> dict[str, str]:
    """The database could not hold it, and what was replaced would not be found again."""
    for name, value in metadata.items():
        if _NUL in name or _NUL in value:
            raise refused(lambda _, path, name=name: nul(f"{path}.{refusals.clip(name)}"))
    return metadata


def nul(path: str) -> InvalidRequest:
    """What a client is told that sends a NUL character where none can be kept."""
    path = path.replace(_NUL, "\\u0000")
    return InvalidRequest(
        f"Invalid '{path}': NUL characters are not supported.", code="invalid_value", param=path
    )


ConversationItems = Annotated[Many[KeptItem], Field(max_length=MAX_ITEMS)]
StorableMetadata = Annotated[Metadata, AfterValidator(_metadata_without_nul)]


@BODY
class CreateConversation(TypedDict, total=False):
    """Begin a conversation."""

    items: ConversationItems | None
    metadata: StorableMetadata | None


@BODY
class UpdateConversation(TypedDict):
    """Replace a conversation's metadata; null empties it."""

    metadata: StorableMetadata | None


@BODY
class AddItems(TypedDict):
    """Append items to a conversation."""

    items: Annotated[ConversationItems, Field(min_length=1)]


@BODY
class ForkConversation(TypedDict, total=False):
    """Begin a conversation with the items of another one, up to and including `item_id`."""

    item_id: AnyId | None
    metadata: StorableMetadata | None


CREATE, UPDATE, ADD, FORK = map(
    TypeAdapter[Any], (CreateConversation, UpdateConversation, AddItems, ForkConversation)
)
