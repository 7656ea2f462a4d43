"""The bodies of requests to endpoints of webhooks. The order of the fields is that of the checks."""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import AfterValidator, Field, TypeAdapter
from typing_extensions import TypedDict

from app.api.schemas.bounds import BODY, Many
from app.api.schemas.conversation import without_nul
from app.domain.webhooks import EVENT_TYPES

MAX_NAME = 200
MAX_URL = 2048


EventType = Literal["response.completed", "response.failed", "response.cancelled", "response.incomplete"]
"""What is fired here. OpenAI's others are of things that are not here, and are refused by their names."""

Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME), AfterValidator(without_nul)]
Url = Annotated[str, Field(min_length=1, max_length=MAX_URL)]
EventTypes = Annotated[Many[EventType], Field(min_length=1, max_length=len(EVENT_TYPES))]


@BODY
class CreateWebhookEndpoint(TypedDict):
    """Say where to be told of what."""

    name: Name
    url: Url
    event_types: EventTypes


@BODY
class UpdateWebhookEndpoint(TypedDict, total=False):
    """Change what is given; event types are replaced as a whole."""

    name: Name
    url: Url
    event_types: EventTypes


@BODY
class RotateWebhookSecret(TypedDict):
    """Ask for a new secret."""

    keep_old_secret_active_for_24_hours: NotRequired[bool]


@BODY
class TestWebhookEndpoint(TypedDict):
    """Send a sample."""

    event_type: EventType


CREATE, UPDATE, ROTATE, TEST = map(
    TypeAdapter[Any],
    (CreateWebhookEndpoint, UpdateWebhookEndpoint, RotateWebhookSecret, TestWebhookEndpoint),
)
