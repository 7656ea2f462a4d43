"""Server-sent events as upstreams send them: bytes in, `data` payloads out. Pure; no I/O."""


class EventParser:
    """Takes a body in pieces of any size and gives back each event's `data`, still encoded.

    Comments, names, ids and CRLF are tolerated, several `data` lines are joined by a newline
    (WHATWG HTML §9.2.6). A leading blank stays, since JSON ignores it.
    """

    __slots__ = ("_data", "_tail")

    def __init__(self) -> None:
        self._data: list[bytes] = []
        self._tail: list[bytes] = []

    def feed(self, piece: bytes) -> list[bytes]:
        """The payloads that `piece` completes."""
        self._tail.append(piece)
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
        return payloads

    def end(self) -> list[bytes]:
        """What is left when the body ends, even if its last blank line is missing."""
        return self.feed(b"\n\n")

    def _take(self) -> bytes:
        payload = self._data[0] if len(self._data) == 1 else b"\n".join(self._data)
        self._data = []
        return payload
