"""The client at the other end of a WebSocket: what is said to it, and whether it is still there."""

import asyncio
import contextlib

from starlette.websockets import WebSocket, WebSocketDisconnect

from app.domain.dialects import Dialect

CLOSE_SECONDS = 1.0
"""How long a client that reads slowly is waited for with the last frame."""


class Peer:
    """All lanes share one connection, and each waits here by itself while that is full.

    So a client that does not read holds up its own lanes, each with one frame in hand, and nobody else.
    """

    def __init__(self, socket: WebSocket, dialect: Dialect) -> None:
        self._socket = socket
        self.dialect = dialect
        """In which it wants to be spoken to."""
        self.is_gone = False

    async def hear(self) -> str | bytes | None:
        """The next frame, text or not; None once the client is gone."""
        message = await self._socket.receive()
        if message["type"] == "websocket.disconnect":
            return None
        text: str | None = message.get("text")
        return message.get("bytes", b"") if text is None else text

    async def say(self, frame: str) -> None:
        """Say it if somebody hears it."""
        if self.is_gone:
            return
        try:
            await self._socket.send_text(frame)
        except (WebSocketDisconnect, RuntimeError):
            # Another lane may have noticed it, or closed, while this one waited.
            self.is_gone = True

    async def close(self, code: int, reason: str) -> None:
        """Say goodbye, but not to a client that does not listen."""
        if self.is_gone:
            return
        self.is_gone = True
        with contextlib.suppress(TimeoutError, WebSocketDisconnect, RuntimeError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._socket.close(code, reason)
