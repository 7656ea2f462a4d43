"""Errors as pages that people can read. What they say is what the API would say."""

from collections.abc import Mapping
from http import HTTPStatus

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from app.api.queries import query_error
from app.errors import NotFound, RequestError, ServiceError
from app.ui.rendering import page

log: structlog.stdlib.BoundLogger = structlog.get_logger()

_TITLES: Mapping[int, str] = {
    400: "That did not work",
    401: "Please log in",
    403: "Not allowed",
    404: "Not found",
    405: "Not allowed",
    413: "Too large",
    429: "Too much at once",
    503: "Back in a moment",
}


def install(app: FastAPI) -> None:
    """Render every error of the page in one shape."""
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)


def answer(request: Request, error: ServiceError) -> Response:
    """The error as a page with its status."""
    title = _TITLES.get(error.status) or HTTPStatus(error.status).phrase
    response = page(request, "error.html", status=error.status, title=title, message=error.message)
    if error.retry_after_seconds is not None:
        response.headers["retry-after"] = str(max(1, round(error.retry_after_seconds)))
    if error.status == 408:
        response.headers["connection"] = "close"
    return response


async def _service_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, ServiceError):
        raise error
    say = log.info if isinstance(error, RequestError) else log.warning
    say("request.refused", code=error.code, status=error.status)
    return answer(request, error)


async def _validation_error(request: Request, error: Exception) -> Response:
    if not isinstance(error, RequestValidationError):
        raise error
    return answer(request, query_error(error.errors()))


async def _http_error(request: Request, error: Exception) -> Response:
    """Pages that do not exist, or not with this method."""
    if not isinstance(error, HTTPException):
        raise error
    wrong = NotFound(f"There is no page at {request.url.path}.")
    if error.status_code == 405:
        wrong = RequestError(f"Not allowed to {request.method} on {request.url.path}.")
        wrong.status = 405
    refused = answer(request, wrong)
    refused.headers.update(error.headers or {})
    return refused
