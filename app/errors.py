"""What can go wrong, as one tree. No HTTP framework and no SQL in here; `app.api.errors` renders it.

ServiceError                      never raised itself; carries type, code, param, message
├─ RequestError            4xx    the caller can fix it; logged at info, never alerts
│  ├─ Unauthenticated      401    no key, or none that is valid; before routing and before the body
│  ├─ Forbidden            403    the key lacks the scope of the route
│  ├─ InvalidRequest       400    names the param; also for options that are not supported
│  ├─ NotFound             404    the same words whether absent or another tenant's (law L7)
│  ├─ Conflict             400    wrong status for the verb (400 on purpose: SDKs retry 409)
│  └─ RateLimited          429    with retry_after_seconds
├─ UpstreamError           4xx/5xx  a provider failed; the provider's words are kept for the log
└─ Unavailable             503    our own dependency is down; retry_after_seconds

LeaseLost                         control flow of background runs; never rendered
"""

from dataclasses import dataclass
from typing import ClassVar

MAX_MESSAGE_CHARS = 4096
"""Errors repeat what a client sent, but never megabytes of it."""


class ServiceError(Exception):
    """The server had an error while processing your request. Sorry about that!"""

    status: int = 500
    type: ClassVar[str] = "server_error"

    def __init__(
        self,
        message: str | None = None,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_after_seconds: float | None = None,
    ) -> None:
        """Take the class's docstring as the message where none is given."""
        self.message = _cut(message or (self.__doc__ or "").strip())
        self.code = code
        self.param = param
        self.retry_after_seconds = retry_after_seconds
        super().__init__(self.message)

    def envelope(self) -> dict[str, dict[str, str | None]]:
        """OpenAI's error body; all four keys are always there (reference: "Error codes")."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}


class RequestError(ServiceError):
    """The request could not be served as it was made."""

    status = 400
    type = "invalid_request_error"


class Unauthenticated(RequestError):
    """You didn't provide an API key. You need to provide your API key in an Authorization header using \
Bearer auth (i.e. Authorization: Bearer YOUR_KEY).
    """

    status = 401

    def __init__(self, message: str | None = None) -> None:
        """Say that the key was incorrect, or, without a message, that there was none."""
        super().__init__(message, code="invalid_api_key")


class Forbidden(RequestError):
    """You have insufficient permissions for this operation."""

    status = 403


class InvalidRequest(RequestError):
    """The request was invalid."""


class NotFound(RequestError):
    """The requested resource was not found."""

    status = 404


class Conflict(RequestError):
    """The resource is in the wrong state for this request."""


class RateLimited(RequestError):
    """Rate limit reached. Please retry later."""

    status = 429
    type = "rate_limit_error"


class Unavailable(ServiceError):
    """The server is temporarily unable to serve this request. Please retry shortly."""

    status = 503

    def __init__(self, message: str | None = None, *, retry_after_seconds: float = 1.0) -> None:
        """Ask the client to come back; SDKs honour `Retry-After`."""
        super().__init__(message, code="service_unavailable", retry_after_seconds=retry_after_seconds)


@dataclass(frozen=True, slots=True)
class UpstreamReport:
    """What an upstream said, for the log alone: it may hold secrets."""

    upstream: str
    status: int | None = None
    detail: str = ""


class UpstreamError(ServiceError):
    """The model provider failed to answer."""

    status = 502

    def __init__(
        self,
        message: str | None = None,
        *,
        status: int = 502,
        code: str | None = "server_error",
        param: str | None = None,
        retry_after_seconds: float | None = None,
        report: UpstreamReport | None = None,
    ) -> None:
        """Keep the upstream's words in `report`; `message` is what the client may read."""
        super().__init__(message, code=code, param=param, retry_after_seconds=retry_after_seconds)
        self.status = status
        self.report = report

    def envelope(self) -> dict[str, dict[str, str | None]]:
        """The client's own mistakes keep the type that SDKs map to a bad request."""
        kind = {True: "invalid_request_error", False: "server_error"}[self.status < 429]
        return {
            "error": {
                "message": self.message,
                "type": "rate_limit_error" if self.status == 429 else kind,
                "param": self.param,
                "code": self.code,
            }
        }


def _cut(message: str) -> str:
    return message if len(message) <= MAX_MESSAGE_CHARS else f"{message[:MAX_MESSAGE_CHARS]}..."


class LeaseLost(Exception):
    """The response was cancelled or given to another attempt: this one may write nothing more."""
