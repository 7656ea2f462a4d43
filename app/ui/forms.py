"""Forms as they are sent, bounded before they are read."""

from dataclasses import dataclass
from urllib.parse import parse_qsl

from fastapi import Request

from app.api.bodies import read_body
from app.errors import InvalidRequest
from app.resources import Resources

MAX_FIELDS = 20


@dataclass(frozen=True, slots=True)
class _Limits:
    body_timeout_seconds: float
    max_body_bytes: int = 16 * 1024


async def read_form(request: Request, it: Resources) -> dict[str, str]:
    """The fields; of one that is there twice the last counts. Bytes that are no text are replaced.

    Raises:
        BodyTooLarge, BodyTooSlow: no form of ours is like that.
        InvalidRequest: it has too many fields.
    """
    body = await read_body(request, _Limits(it.settings.body_timeout_seconds))
    try:
        return dict(
            parse_qsl(
                body.decode("utf-8", "replace"),
                keep_blank_values=True,
                errors="replace",
                max_num_fields=MAX_FIELDS,
            )
        )
    except ValueError:
        raise InvalidRequest("The form has too many fields.") from None
