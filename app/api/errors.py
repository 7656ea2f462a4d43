"""The error tree as OpenAI's envelope. Only this module knows how an error looks on the wire (law L10)."""

from collections.abc import Mapping
from typing import Any

import orjson
import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match

from app.api import dialects
from app.api.queries import query_error
from app.errors import NotFound, RequestError, ServiceError, UpstreamError

_METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")

log: structlog.stdlib.BoundLogger = structlog.get_logger()

# Codes of a failed response that are the request's own fault (reference: "ResponseErrorCode").
_REQUEST_CODES = frozenset(
    {
        "invalid_prompt", "bio_policy", "misalignment_policy_violation", "data_residency_mismatch",
        "invalid_image", "invalid_image_format", "invalid_base64_image", "invalid_image_url",
        "image_too_large", "image_too_small", "image_parse_error", "image_content_policy_violation",
        "invalid_image_mode", "image_file_too_large", "unsupported_image_media_type", "empty_image_file",
        "failed_to_download_image", "image_file_not_found",
    }
)  # fmt: skip


def install(app: FastAPI) -> None:
    """Render every error of `app` in one shape."""
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)


def render(error: ServiceError) -> Response:
    # What is left of a body that came too slowly is not waited for.
    headers = {"connection": "close"} if error.status == 408 else dict[str, str]()
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    if error.retry_after_seconds is not None:
        headers["retry-after"] = str(max(1, round(error.retry_after_seconds)))
        headers["retry-after-ms"] = str(round(error.retry_after_seconds * 1000))
    return Response(
        orjson.dumps(error.envelope()), error.status, headers=headers, media_type="application/json"
    )


def of_failed_response(error: Mapping[str, Any]) -> ServiceError:
    """What a client that waits for JSON is told when its generation failed midway (behaviour 64).

    The failed response itself is stored, with the output that there was.
    """
    code, message = str(error.get("code") or "server_error"), str(error.get("message") or "")
    if code == "rate_limit_exceeded":
        return UpstreamError(message, status=429, code=code)
    return UpstreamError(message, status=400 if code in _REQUEST_CODES else 500, code=code)


async def _service_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, ServiceError):
        raise error
    return answer(request, error)


def answer(request: Request, error: ServiceError) -> Response:
    """The refusal of one request in its dialect, told to the log as well."""
    report = error.report if isinstance(error, UpstreamError) else None
    say = log.info if isinstance(error, RequestError) else log.warning
    say("request.refused", code=error.code, status=error.status, report=report)
    return dialects.error(request, render(error))


async def _validation_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    return dialects.error(request, render(query_error(error.errors())))


async def _http_error(request: Request, error: Exception) -> Response:
    """Routes that do not exist, or not with this method."""
    if not isinstance(error, HTTPException):
        raise error
    if error.status_code == 405:
        return dialects.error(request, _wrong_method(request))
    unknown = NotFound(f"Invalid URL ({request.method} {request.url.path})", code="unknown_url")
    return dialects.error(request, render(unknown))


def _wrong_method(request: Request) -> Response:
    wrong = RequestError(
        f"Not allowed to {request.method} on {request.url.path}.", code="method_not_supported"
    )
    wrong.status = 405
    response = render(wrong)
    response.headers["allow"] = ", ".join(_allowed_methods(request))
    return response


def _allowed_methods(request: Request) -> list[str]:
    """All that the path takes; Starlette would name those of its first route alone."""
    scopes = {method: {**request.scope, "method": method} for method in _METHODS}
    routes: list[BaseRoute] = request.app.routes
    return [
        method
        for method, scope in scopes.items()
        if any(route.matches(scope)[0] is Match.FULL for route in routes)
    ]
