"""Upstreams that speak the Responses API themselves. They are asked without their state.

Nothing is decoded on the way out: the context's bytes become the `input` array as they are. What comes
back is read by `responses_events`.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar

import aiohttp
import orjson

from app.domain.context import Context
from app.errors import UpstreamError
from app.providers.base import Delta
from app.providers.intake import Intake
from app.providers.responses_events import ResponsesFold
from app.providers.tool_secrets import secrets_of
from app.providers.upstream import EventStream, Upstream, UpstreamClient

PATH = "/responses"
ENCRYPTED_REASONING = "reasoning.encrypted_content"

# What this server does itself; an upstream that did it too would do it twice.
_OURS = frozenset(
    {
        "background",
        "conversation",
        "include",
        "input",
        "metadata",
        "model",
        "previous_response_id",
        "prompt",
        "store",
        "stream",
        "stream_options",
    }
)

Answer = TypeVar("Answer")


class OpenAIResponses:
    """One upstream at `{base_url}/responses`."""

    def __init__(self, session: aiohttp.ClientSession, upstream: Upstream) -> None:
        self._client = UpstreamClient(session, upstream)
        self._plain_models: set[str] = set()

    @property
    def name(self) -> str:
        return self._client.upstream.name

    def refuse(self, params: Mapping[str, Any], items: Sequence[Mapping[str, Any]]) -> None:
        """Refuse nothing: the protocol carries every parameter, and the upstream judges its values."""

    async def stream(self, context: Context) -> AsyncGenerator[Delta, None]:
        client = self._client.hiding(secrets_of(context.params))
        fold, intake = ResponsesFold(client.errors), Intake(client.errors)
        if not context.is_streamed:
            answer = await self._asked(context, lambda body: client.post_json(PATH, body))
            for delta in intake.take(fold.whole, answer):
                yield delta
            return
        async with await self._opened(client, context) as events:
            async for event in events:
                for delta in intake.take(fold.feed, event):
                    yield delta
                if fold.is_finished:
                    return
                del event  # Else it would be kept until the next one comes.
            raise client.errors.cut()

    async def models(self) -> Sequence[str]:
        return await self._client.models()

    async def close(self) -> None:
        await self._client.close()

    async def _opened(self, client: UpstreamClient, context: Context) -> EventStream:
        return await self._asked(context, lambda body: client.post_stream(PATH, body))

    async def _asked(self, context: Context, ask: Callable[[bytes], Awaitable[Answer]]) -> Answer:
        """Ask, and once more without encrypted reasoning where the model turns out to have none.

        Models that do not reason refuse the `include` which models that do need to be asked statelessly.
        """
        try:
            return await ask(self._body(context))
        except UpstreamError as error:
            if not self._is_about_encryption(error, context):
                raise
        self._plain_models.add(context.model)
        return await ask(self._body(context))

    def _is_about_encryption(self, error: UpstreamError, context: Context) -> bool:
        is_ours = ENCRYPTED_REASONING not in (context.params.get("include") or ())
        return is_ours and error.status == 400 and "ncrypted content is not supported" in error.message

    def _body(self, context: Context) -> bytes:
        fields = {key: value for key, value in context.params.items() if key not in _OURS}
        fields.update(
            model=context.model, store=False, stream=context.is_streamed, include=self._include(context)
        )
        return b'%s,"input":[%s]}' % (orjson.dumps(fields)[:-1], context.joined())

    def _include(self, context: Context) -> list[str]:
        include: list[str] = [*(context.params.get("include") or ())]
        if ENCRYPTED_REASONING not in include and context.model not in self._plain_models:
            include.append(ENCRYPTED_REASONING)
        return include
