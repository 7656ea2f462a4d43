"""Upstreams that speak Chat Completions.

`chat_request` says what is asked, `chat_stream` hears what is answered.
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

import aiohttp
import orjson

from app.domain.context import Context
from app.errors import InvalidRequest
from app.providers import chat_request
from app.providers.base import Delta
from app.providers.chat_stream import ChatFold
from app.providers.intake import Intake
from app.providers.tool_secrets import secrets_of
from app.providers.upstream import Upstream, UpstreamClient

PATH = "/chat/completions"


class OpenAIChat:
    """One upstream at `{base_url}/chat/completions`."""

    def __init__(self, session: aiohttp.ClientSession, upstream: Upstream) -> None:
        self._client = UpstreamClient(session, upstream)

    @property
    def name(self) -> str:
        return self._client.upstream.name

    def refuse(self, params: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> None:
        chat_request.refuse(params, items)

    async def stream(self, context: Context) -> AsyncGenerator[Delta, None]:
        client = self._client.hiding(secrets_of(context.params))
        fold, intake = ChatFold(client.errors), Intake(client.errors)
        if not context.is_streamed:
            for delta in intake.take(fold.whole, await client.post_json(PATH, self._body(context))):
                yield delta
            return
        async with await client.post_stream(PATH, self._body(context)) as chunks:
            async for chunk in chunks:
                for delta in intake.take(fold.feed, chunk):
                    yield delta
                del chunk  # Else it would be kept until the next one comes.
            for delta in intake.take(lambda is_done: fold.end(is_done=is_done), chunks.is_done):
                yield delta

    async def models(self) -> Sequence[str]:
        return await self._client.models()

    async def close(self) -> None:
        await self._client.close()

    def _body(self, context: Context) -> bytes:
        items = orjson.loads(b"[%s]" % context.joined())
        try:
            body = chat_request.request(
                context.model,
                items,
                context.params,
                is_streamed=context.is_streamed,
                max_tokens_field=self._client.upstream.max_tokens_field,
            )
        except InvalidRequest as error:
            # The place is in the whole history, of which the client sent perhaps only the end.
            raise InvalidRequest(error.message, code=error.code, param="input") from error
        return orjson.dumps(body)
