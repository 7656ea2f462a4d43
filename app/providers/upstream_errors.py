"""What an upstream's failure means to the client.

Only what the client can act on is taken over: its own mistakes, in the upstream's words. Everything
else becomes a sentence of ours, and the upstream's words go to the report, for the log alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import orjson

from app.errors import UpstreamError, UpstreamReport

MAX_DETAIL_CHARS = 2_000

CONTEXT_LENGTH_EXCEEDED = (
    "Your input exceeds the context window of this model. Please adjust your input and try again."
)

_OVERFLOWS = frozenset({"context_length_exceeded", "exceed_context_size_error"})
_QUOTAS = frozenset({"insufficient_quota", "credit_balance_exhausted"})

# What the API calls the client's own mistakes in a response that failed.
_MISTAKES = frozenset(
    {
        "invalid_request_error",
        "invalid_prompt",
        "empty_image_file",
        "failed_to_download_image",
        "image_content_policy_violation",
        "image_file_not_found",
        "image_file_too_large",
        "image_parse_error",
        "image_too_large",
        "image_too_small",
        "invalid_base64_image",
        "invalid_image",
        "invalid_image_format",
        "invalid_image_mode",
        "invalid_image_url",
        "unsupported_image_media_type",
    }
)

# The status that an error inside an answer of status 200 would have had.
_STATUS_OF_WORD = {
    **dict.fromkeys(_MISTAKES, 400),
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "insufficient_quota": 429,
    "server_is_overloaded": 503,
    "overloaded_error": 503,
    "slow_down": 503,
}


@dataclass(frozen=True, slots=True)
class _Words:
    """What an error object says, whichever of the usual shapes it has."""

    message: str
    code: str | None = None
    kind: str | None = None
    param: str | None = None
    number: int | None = None
    """A `code` that is an HTTP status, as vLLM and OpenRouter send it."""

    @property
    def is_overflow(self) -> bool:
        named = self.code in _OVERFLOWS or self.kind in _OVERFLOWS
        return named or "maximum context length" in self.message

    @property
    def status(self) -> int:
        if self.number is not None and 400 <= self.number < 600:
            return self.number
        return _STATUS_OF_WORD.get(self.code or "") or _STATUS_OF_WORD.get(self.kind or "") or 502


class UpstreamErrors:
    """Makes the errors of one upstream and keeps its key and other secrets out of all of them."""

    def __init__(self, upstream: str, *secrets: str | None) -> None:
        self._upstream = upstream
        self._secrets = tuple(secret for secret in secrets if secret)

    def hiding(self, secrets: Sequence[str]) -> "UpstreamErrors":
        """The same, that keep a request's own secrets to themselves as well."""
        return UpstreamErrors(self._upstream, *self._secrets, *secrets)

    def answered(self, status: int, body: bytes, retry_after_seconds: float | None = None) -> UpstreamError:
        """The error for an answer whose HTTP status is not a success."""
        report = self._report(status, body.decode(errors="replace"))
        return self._explained(status, _words(_parsed(body)), report, retry_after_seconds)

    def said(self, error: Any) -> UpstreamError:
        """The error for an error object inside an answer of status 200."""
        words = _words(error) or _Words(message="")
        report = self._report(200, _json(error))
        return self._explained(words.status, words, report, None)

    def raised(self, error: Exception) -> UpstreamError:
        """The error for a connection that could not be made, broke, or fell silent."""
        report = self._report(None, f"{type(error).__name__}: {error}")
        if isinstance(error, TimeoutError):
            return UpstreamError("The model provider did not answer in time.", status=504, report=report)
        if isinstance(error, aiohttp.ClientPayloadError):
            return self._cut(report)
        return UpstreamError("The model provider could not be reached.", report=report)

    def cut(self) -> UpstreamError:
        """The error for a stream that ended without its terminal event."""
        return self._cut(self._report(200, "the stream ended without a terminal event"))

    def broken(self, detail: str) -> UpstreamError:
        """The error for an answer that its own protocol does not allow."""
        return UpstreamError("The model provider's answer was malformed.", report=self._report(200, detail))

    def redacted(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "[redacted]")
        return text

    def _explained(
        self, status: int, words: _Words | None, report: UpstreamReport, retry_after_seconds: float | None
    ) -> UpstreamError:
        if words and words.is_overflow:
            return UpstreamError(
                CONTEXT_LENGTH_EXCEEDED,
                status=400,
                code="context_length_exceeded",
                param="input",
                report=report,
            )
        if words and status in {400, 404, 413, 422}:
            return self._mistake(words, report)
        if status == 429:
            return _limited(words, report, retry_after_seconds)
        if status in {401, 403}:
            return UpstreamError("The upstream refused this server's credentials.", report=report)
        return _failed(status, report, retry_after_seconds)

    def _mistake(self, words: _Words, report: UpstreamReport) -> UpstreamError:
        # Many upstreams name no code; then the client gets none rather than one of ours.
        message = self.redacted(words.message)
        return UpstreamError(message, status=400, code=words.code, param=words.param, report=report)

    def _cut(self, report: UpstreamReport) -> UpstreamError:
        return UpstreamError("The model provider's answer ended before it was complete.", report=report)

    def _report(self, status: int | None, detail: str) -> UpstreamReport:
        detail = self.redacted(detail)[:MAX_DETAIL_CHARS]
        return UpstreamReport(upstream=self._upstream, status=status, detail=detail)


def _limited(
    words: _Words | None, report: UpstreamReport, retry_after_seconds: float | None
) -> UpstreamError:
    if words and (words.code in _QUOTAS or words.kind in _QUOTAS):
        message, code = "The model provider's quota for this server is used up.", "insufficient_quota"
    else:
        message, code = "The model provider's rate limit was reached. Please retry later.", None
    return UpstreamError(
        message,
        status=429,
        code=code or "rate_limit_exceeded",
        retry_after_seconds=retry_after_seconds,
        report=report,
    )


def _failed(status: int, report: UpstreamReport, retry_after_seconds: float | None) -> UpstreamError:
    if status in {503, 529}:
        return UpstreamError(
            "The model provider is overloaded. Please retry later.",
            status=503,
            code="server_is_overloaded",
            retry_after_seconds=retry_after_seconds,
            report=report,
        )
    if status in {408, 504}:
        return UpstreamError("The model provider did not answer in time.", status=504, report=report)
    return UpstreamError(report=report)


def _json(value: Any) -> str:
    try:
        return orjson.dumps(value).decode()
    except orjson.JSONEncodeError:
        return "an error that is nested too deeply to be shown"


def _parsed(body: bytes) -> Any:
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError:
        return None


def _words(payload: Any) -> _Words | None:
    """Read `{"error": {…}}`, `{"error": "…"}` or the flat form of vLLM and the `error` event."""
    if not isinstance(payload, dict):
        return None
    error = payload.get("error") or payload
    if isinstance(error, str):
        return _Words(message=error)
    if not isinstance(error, dict) or not isinstance(error.get("message"), str):
        return None
    code = error.get("code")
    return _Words(
        message=error["message"],
        code=_text(code),
        kind=_text(error.get("type")),
        param=_text(error.get("param")),
        number=code if isinstance(code, int) else None,
    )


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and not value.isdecimal() else None
