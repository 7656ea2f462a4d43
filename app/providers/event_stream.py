"""Server-sent events as upstreams send them: bytes in, `data` payloads out. Pure; no I/O."""

MAX_EVENT_BYTES = 32 * 2**20
"""Of one event, and so of one line: a generated image in base64 has some ten million bytes."""


class EventTooLong(ValueError):
    """An event has more bytes than `MAX_EVENT_BYTES`."""


class EventParser:
    """Takes a body in pieces of any size and gives back each event's `data`, still encoded.

    Comments, names, ids and CRLF are tolerated, several `data` lines are joined by a newline
    (WHATWG HTML §9.2.6). A leading blank stays, since JSON ignores it.
    """

    __slots__ = ("_data", "_held_bytes", "_tail")

    def __init__(self) -> None:
        self._data: list[bytes] = []
        self._tail: list[bytes] = []
        self._held_bytes = 0

    def feed(self, piece: bytes) -> list[bytes]:
        """The payloads that `piece` completes.

        Raises:
            EventTooLong: so much came of one event, and still not its end.
        """
        self._tail.append(piece)
        self._held_bytes += len(piece)
        if self._held_bytes > MAX_EVENT_BYTES:
            raise EventTooLong(f"an event is longer than {MAX_EVENT_BYTES} bytes")
        # A line of megabytes arrives in many pieces: it is joined once, at its end.
        if b"\n" not in piece:
            return []
        lines = b"".join(self._tail).split(b"\n")
        self._tail = [lines.pop()]
        payloads: list[bytes] = []
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[5:])
            elif line in {b"", b"\r"} and self._data:
                payloads.append(self._take())
        self._held_bytes = len(self._tail[0]) + sum(map(len, self._data))
        return payloads

    def end(self) -> list[bytes]:
        """What is left when the body ends, even if its last blank line is missing."""
        return self.feed(b"\n\n")

    def _take(self) -> bytes:
        payload = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
        self._data = []
        return payload
