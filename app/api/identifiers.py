"""Ids in paths and cursors: what is no id of the kind is a mistake, what nobody has is not found."""

from uuid import UUID

from app import ids
from app.domain.prompts import is_id as is_prompt_id
from app.errors import InvalidRequest, NotFound
from app.generation.history import not_found as conversation_not_found
from app.generation.prompts import not_found as prompt_not_found


def response_key(response_id: str) -> UUID:
    """The key of a well-formed id of a response.

    Raises:
        InvalidRequest: it is not an id of a response at all.
        NotFound: nothing can have this id.
    """
    check_prefix("response_id", response_id, "resp")
    if (key := ids.parse_response_id(response_id)) is None:
        raise response_not_found(response_id)
    return key


def conversation_key(conversation_id: str) -> UUID:
    """The key of a well-formed id of a conversation; errors as for `response_key`."""
    check_prefix("conversation_id", conversation_id, "conv")
    if (key := ids.parse_conversation_id(conversation_id)) is None:
        raise conversation_not_found(conversation_id)
    return key


def prompt_name(prompt_id: str) -> str:
    """A well-formed id of a prompt; errors as for `response_key`."""
    check_prefix("prompt_id", prompt_id, "pmpt")
    if not is_prompt_id(prompt_id):
        raise prompt_not_found(prompt_id)
    return prompt_id


def response_cursor(after: str | None) -> UUID | None:
    """Where a list of responses goes on.

    Raises:
        InvalidRequest: no response can have this id; page one would be a false answer.
    """
    if after is None:
        return None
    check_prefix("after", after, "resp")
    return _cursor(after, ids.parse_response_id(after), "response")


def conversation_cursor(after: str | None) -> UUID | None:
    """Where a list of conversations goes on; errors as for `response_cursor`."""
    if after is None:
        return None
    check_prefix("after", after, "conv")
    return _cursor(after, ids.parse_conversation_id(after), "conversation")


def response_not_found(response_id: str) -> NotFound:
    """The same words whether it never was, was deleted, or is another tenant's (law L7)."""
    return NotFound(f"Response with id '{response_id}' not found.")


def check_prefix(param: str, value: str, prefix: str) -> None:
    """Raise `InvalidRequest` for an id that is not even of the right kind (behaviour 113)."""
    if not value.startswith(prefix):
        raise InvalidRequest(
            f"Invalid '{param}': '{value}'. Expected an ID that begins with '{prefix}'.",
            code="invalid_value",
            param=param,
        )


def _cursor(after: str, key: UUID | None, kind: str) -> UUID:
    if key is None:
        raise InvalidRequest(
            f"Invalid 'after': no {kind} has the id '{after}'.", code="invalid_value", param="after"
        )
    return key
