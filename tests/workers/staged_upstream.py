"""An upstream that halts where a test wants it to; it speaks bytes over a socket."""

import asyncio
import collections

import orjson

from tests.api.upstream import BEGINNING, RESPONSE, REST, Upstream, _body

CREATED = BEGINNING.split(b"\n\n")[0] + b"\n\n"
HALTS = {
    # For good.
    "asked": b"",
    "begun": CREATED,
    "shown": BEGINNING,
    # Until it may finish, or may go on.
    "ready": BEGINNING,
    "later": BEGINNING,
    # Because it loses the connection.
    "dropped": b"",
    "broken": BEGINNING,
}
"""What a stream has said when it halts."""


class StagedUpstream(Upstream):
    """Halts at the first call where the first word of the input says, and answers in whole at all later ones."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = collections.Counter[str]()
        """How often each input has been asked for."""
        self.may_go_on = asyncio.Event()
        self.permissions = {"ready": self.may_finish, "later": self.may_go_on}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self.tasks.add(task)
        try:
            body = orjson.loads(await _body(reader))
            text = body["input"][-1]["content"][0]["text"]
            self.calls[text] += 1
            halt = text.split()[0] if self.calls[text] == 1 else "nowhere"
            await self._answer(halt, reader, writer, is_streamed=body["stream"])
        finally:
            writer.close()

    async def _answer(
        self, halt: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_streamed: bool
    ) -> None:
        said = HALTS.get(halt, BEGINNING) if is_streamed else b""
        rest = REST if is_streamed else orjson.dumps(RESPONSE)
        if halt in {"asked", "dropped"}:
            head = b""
        else:
            kind = b"text/event-stream" if is_streamed else b"application/json"
            length = len(BEGINNING + REST) if is_streamed else len(rest)
            head = (
                b"HTTP/1.1 200 OK\r\ncontent-type: %s\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
                % (
                    kind,
                    length,
                )
            )
        writer.write(head + said)
        if halt in {"dropped", "broken"}:
            return
        permission = self.permissions.get(halt, asyncio.Event())
        if halt in HALTS and await self._left_before(permission, reader):
            return
        writer.write(rest)
