"""How every upstream is called over HTTP: one pool of connections, time limits, retries.

Nothing here knows what is said. A request is sent again only before the first byte of an answer; bodies
and keys are never logged.
"""

import asyncio
import copy
import io
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import aiohttp

from app.errors import UpstreamError
from app.providers import answer_body, retries
from app.providers.event_stream import EventParser, EventTooLong
from app.providers.upstream_errors import UpstreamErrors

logger = logging.getLogger(__name__)

MODELS_SECONDS = 60.0
MODELS_TIMEOUT = aiohttp.ClientTimeout(total=5)
# aiohttp writes larger bodies in pieces only if they are files.
MAX_WHOLE_BYTES = 2**20


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where an upstream is and how it wants to be called."""

    name: str
    base_url: str
    """Up to and with the version, as in `https://api.openai.com/v1`."""
    api_key: str | None = field(default=None, repr=False)
    headers: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    """Sent with each request, beside or instead of the bearer key."""
    connect_timeout_seconds: float = 10.0
    timeout_seconds: float = 600.0
    """The longest silence between two bytes of an answer. The whole has no limit here."""
    max_retries: int = 2
    backoff_seconds: float = 0.5
    """The first pause before a retry; doubled each time."""
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What Chat Completions upstreams call the limit; OpenAI's reasoning models want the longer name."""


def open_session() -> aiohttp.ClientSession:
    """The one pool that all upstreams share. Must be called inside the event loop that uses it.

    It has no limit of its own: how many generations run at once is not the pool's to decide.
    """
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), cookie_jar=aiohttp.DummyCookieJar())


class EventStream:
    """The events of one answer, as parsed JSON objects, until `[DONE]` or the end of the body.

    Leaving its block early or by an exception closes the socket at once. Left at its end, the connection
    goes back to the pool.
    """

    __slots__ = ("_content", "_errors", "_is_ended", "_parser", "_ready", "_response", "is_done")

    def __init__(self, response: aiohttp.ClientResponse, errors: UpstreamErrors) -> None:
        self._response = response
        self._content = response.content
        self._errors = errors
        self._parser = EventParser()
        # The next one is the last. An empty deque has 760 bytes, in each stream that waits.
        self._ready: list[bytes] = []
        self._is_ended = False
        self.is_done = False
        """Whether the upstream said `[DONE]`, rather than just nothing more."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                await answer_body.settle(self._content)
        finally:
            self._response.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> dict[str, Any]:
        """Wait for the next event.

        Raises:
            UpstreamError: the connection broke, fell silent, or carried something else than JSON objects.
        """
        while not self._ready:
            if self._is_ended:
                raise StopAsyncIteration
            await self._read()
        payload = self._ready.pop()
        if payload.strip() == b"[DONE]":
            self.is_done = self._is_ended = True
            self._ready.clear()
            raise StopAsyncIteration
        return answer_body.parsed(payload, self._errors)

    async def _read(self) -> None:
        try:
            piece = await self._content.readany()
        except (aiohttp.ClientError, OSError) as error:
            raise self._errors.raised(error) from error
        self._is_ended = not piece
        try:
            self._ready = (self._parser.feed(piece) if piece else self._parser.end())[::-1]
        except EventTooLong as error:
            raise self._errors.broken(str(error)) from error


@dataclass(frozen=True, slots=True)
class _Refusal:
    """An attempt that got no answer, and whether another may."""

    error: UpstreamError
    is_retryable: bool


class UpstreamClient:
    """Calls one upstream through the shared pool."""

    def __init__(self, session: aiohttp.ClientSession, upstream: Upstream) -> None:
        self.upstream = upstream
        self.errors = UpstreamErrors(upstream.name, upstream.api_key)
        self._session = session
        self._base = upstream.base_url.rstrip("/")
        self._headers = dict(upstream.headers)
        if upstream.api_key:
            self._headers["authorization"] = f"Bearer {upstream.api_key}"
        self._timeout = aiohttp.ClientTimeout(
            connect=upstream.connect_timeout_seconds, sock_read=upstream.timeout_seconds
        )
        self._models: Sequence[str] = ()
        self._models_until = 0.0

    def hiding(self, secrets: Sequence[str]) -> "UpstreamClient":
        """The same client, whose errors keep a request's own secrets to themselves."""
        if not secrets:
            return self
        client = copy.copy(self)
        client.errors = self.errors.hiding(secrets)
        return client

    async def post_stream(self, path: str, body: bytes) -> EventStream:
        """Open a stream, whose block the caller enters next. Of the body nothing is kept while it lasts.

        Raises:
            UpstreamError: there is no answer, or it is an error.
        """
        response = await self._open(path, body, accept="text/event-stream")
        if _is_json(response):
            raise await self._unstreamed(response)
        return EventStream(response, self.errors)

    async def post_json(self, path: str, body: bytes) -> dict[str, Any]:
        """The JSON object that the upstream answers.

        Raises:
            UpstreamError: there is no answer, or it is an error.
        """
        response = await self._open(path, body, accept="application/json")
        answer = await self._whole(response)
        # Routers report a failure of theirs inside an answer of status 200.
        if answer.get("error") and not isinstance(answer.get("status"), str):
            raise self.errors.said(answer)
        return answer

    async def models(self) -> Sequence[str]:
        """The model names that the upstream lists, at most a minute old; none while it is away."""
        if time.monotonic() >= self._models_until:
            try:
                self._models = await self._listed()
            except (aiohttp.ClientError, OSError, UpstreamError) as error:
                reason = type(error).__name__
                logger.warning("upstream.unlisted", extra={"upstream": self.upstream.name, "reason": reason})
                return ()
            self._models_until = time.monotonic() + MODELS_SECONDS
        return self._models

    async def close(self) -> None:
        """Close the shared pool: all adapters end together."""
        await self._session.close()

    async def _open(self, path: str, body: bytes, *, accept: str) -> aiohttp.ClientResponse:
        headers = {**self._headers, "content-type": "application/json", "accept": accept}
        attempt = 0
        while True:
            answer = await self._attempt(self._base + path, body, headers)
            if isinstance(answer, aiohttp.ClientResponse):
                return answer
            pause = retries.pause_seconds(
                attempt, self.upstream.backoff_seconds, answer.error.retry_after_seconds
            )
            if not answer.is_retryable or attempt >= self.upstream.max_retries or pause is None:
                raise answer.error
            attempt += 1
            self._log_retry(attempt, pause, answer.error)
            await asyncio.sleep(pause)

    async def _attempt(
        self, url: str, body: bytes, headers: Mapping[str, str]
    ) -> aiohttp.ClientResponse | _Refusal:
        data = io.BytesIO(body) if len(body) > MAX_WHOLE_BYTES else body
        try:
            response = await self._session.post(
                url, data=data, headers=headers, timeout=self._timeout, allow_redirects=False
            )
        except (aiohttp.ClientError, OSError) as error:
            # A silent upstream may be at work on the request; one that was never reached is not.
            is_retryable = not isinstance(error, aiohttp.SocketTimeoutError)
            return _Refusal(self.errors.raised(error), is_retryable=is_retryable)
        return response if response.status < 300 else await self._refusal(response)

    async def _refusal(self, response: aiohttp.ClientResponse) -> _Refusal:
        try:
            body = await answer_body.head(response.content)
        finally:
            response.close()
        error = self.errors.answered(response.status, body, retries.retry_after_seconds(response.headers))
        is_passing = response.status in {408, 409, 429} or response.status >= 500
        return _Refusal(error, is_retryable=is_passing and error.code != "insufficient_quota")

    def _log_retry(self, attempt: int, pause: float, error: UpstreamError) -> None:
        status = error.report.status if error.report else None
        logger.warning(
            "upstream.retried",
            extra={
                "upstream": self.upstream.name,
                "upstream_status": status,
                "attempt": attempt,
                "pause_seconds": round(pause, 3),
            },
        )

    async def _whole(self, response: aiohttp.ClientResponse) -> dict[str, Any]:
        try:
            body = await answer_body.whole(response.content, answer_body.MAX_ANSWER_BYTES, self.errors)
        finally:
            response.close()
        return answer_body.parsed(body, self.errors)

    async def _unstreamed(self, response: aiohttp.ClientResponse) -> UpstreamError:
        answer = await self._whole(response)
        is_error = answer.get("error") or answer.get("type") == "error"
        return self.errors.said(answer) if is_error else self.errors.broken("no event stream")

    async def _listed(self) -> Sequence[str]:
        async with self._session.get(
            f"{self._base}/models", headers=self._headers, timeout=MODELS_TIMEOUT, allow_redirects=False
        ) as response:
            if response.status != 200:
                raise self.errors.answered(response.status, await answer_body.head(response.content))
            body = await answer_body.whole(response.content, answer_body.MAX_MODELS_BYTES, self.errors)
        listed = answer_body.parsed(body, self.errors).get("data")
        if not isinstance(listed, list):
            raise self.errors.broken("no list of models")
        names = (entry.get("id") for entry in listed if isinstance(entry, dict))
        return tuple(name for name in names if isinstance(name, str))


def _is_json(response: aiohttp.ClientResponse) -> bool:
    """Asking aiohttp for the type would have each answer carry one more dictionary, of 1.5 KB."""
    kind, _, _ = response.headers.get("content-type", "").partition(";")
    return kind.strip().lower() == "application/json"
