"""Whole requests for fuzzing: every route, with odd paths, queries, headers and bodies; and the wire to send them."""

import http.client
import socket
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from app.main import create_app
from app.settings import Settings
from tests.api import bodies

PATHS: dict[str, dict[str, Any]] = create_app(Settings()).openapi()["paths"]
ROUTES = sorted(
    {(method.upper(), path) for path, methods in PATHS.items() for method in methods}
    | {("GET", "/nowhere"), ("PATCH", "/v1/responses"), ("HEAD", "/v1/models"), ("OPTIONS", "/v1/responses")}
)

KNOWN = ["{response}", "{conversation}", "{item}"]
"""Stand for what is stored; whoever sends the request puts real ids in their place."""

NAMES = st.sampled_from(KNOWN) | bodies.IDS | bodies.TEXT
QUERY_NAMES = st.sampled_from(
    sorted(
        {
            parameter["name"]
            for methods in PATHS.values()
            for operation in methods.values()
            for parameter in operation.get("parameters", ())
            if parameter["in"] == "query"
        }
        | {"metadata[a]", "metadata[\0]", "include[]", "stream", "starting_after"}
    )
)
QUERY_VALUES = NAMES | st.sampled_from(["true", "false", "asc", "0", "1", "-1", "1e9", "9" * 400, "NaN"])
HEADER_NAMES = st.sampled_from([
    b"accept", b"authorization", b"content-type", b"content-encoding", b"cookie", b"expect", b"forwarded", b"host",
    b"holdfast-conversation-wait", b"holdfast-on-open-tool-calls", b"idempotency-key", b"openai-organization",
    b"openai-project", b"origin", b"range", b"traceparent", b"upgrade", b"x-forwarded-for", b"x-request-id",
    b"x-stainless-retry-count", b"last-event-id", b"user-agent",
])  # fmt: skip
HEADER_VALUES = (
    st.binary(max_size=40)
    | st.sampled_from(
        [b"", b"Bearer ", b"Bearer sk-x", b"0", b"-1", b"1e999", b"NaN", b"100-continue", b"websocket"]
    )
    | st.sampled_from(
        [b"x" * 3000, b"x" * 70_000, b"\xff" * 500, b"application/json; charset=utf-16", b"gzip"]
    )
)
BODIES = (
    bodies.mutated().map(bodies.encode)
    | bodies.valid().map(bodies.encode)
    | bodies.mangled()
    | st.binary(max_size=40)
    | st.sampled_from([
        b"", b"1e400", b"[" * 100_000, b"9" * 5000, b'{"a":' * 5000, b'{"model":"offline","input":"\\ud800"}',
        b'{"items":[{"role":"user","content":"\\u0000"}],"metadata":{"\\u0000":"\\udfff"}}',
    ])
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Request:
    """One request, ready for the wire but for the placeholders."""

    method: str
    path: str
    query: dict[str, str]
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    def on_the_wire(self, known: dict[str, str]) -> bytes:
        """As bytes, with these ids in the place of the placeholders."""
        pairs = "&".join(
            f"{quote(key)}={quote(known.get(value, value))}" for key, value in self.query.items()
        )
        head = f"{self.method} {self._filled(known)}{'?' if pairs else ''}{pairs} HTTP/1.1\r\n".encode()
        for name, value in self.headers:
            head += name + b": " + value + b"\r\n"
        body = self.body
        for placeholder, name in {**known, bodies.PARENT: known["{response}"]}.items():
            body = body.replace(placeholder.encode(), name.encode())
        return b"%scontent-length: %d\r\n\r\n%s" % (head, len(body), body)

    def _filled(self, known: dict[str, str]) -> str:
        return "/".join(quote(known.get(part, part), safe=True) for part in self.path.split("/"))


@st.composite
def requests(draw: st.DrawFn) -> Request:
    """A request to a route of the server; most of them have something wrong."""
    method, path = draw(st.sampled_from(ROUTES))
    parts = [draw(NAMES) if part.startswith("{") else part for part in path.split("/")]
    return Request(
        method=method,
        # A slash in a name would make it another path.
        path="/".join([parts[0], *(part.replace("/", "\u2044") for part in parts[1:])]),
        query=draw(st.dictionaries(QUERY_NAMES, QUERY_VALUES, max_size=3)),
        headers=tuple(draw(st.lists(st.tuples(HEADER_NAMES, HEADER_VALUES), max_size=3))),
        body=draw(BODIES) if method in {"POST", "PATCH"} else b"",
    )


def quote(text: str, *, safe: bool = False) -> str:
    """Every byte escaped, so that nothing of it is taken for the syntax of a URL; plain words may stay."""
    if safe and text.isascii() and text.replace("_", "").replace("-", "").isalnum():
        return text
    return "".join(f"%{byte:02x}" for byte in text.encode(errors="surrogatepass"))


class Wire:
    """A connection that sends anything and reads what comes back; opened anew where the server hung up."""

    def __init__(self, port: int, *, seconds: float = 20) -> None:
        """Open nothing yet. What takes longer than `seconds` raises TimeoutError."""
        self._address = ("127.0.0.1", port)
        self._seconds = seconds
        self._socket: socket.socket | None = None

    def ask(self, request: Request, known: dict[str, str]) -> tuple[int, bytes]:
        """Status and body. The status is 0 where the server hung up without a word."""
        sent = request.on_the_wire(known)
        try:
            return self._ask(sent, request.method)
        except (ConnectionError, http.client.RemoteDisconnected):
            # The connection may have been closed just then, for the answer before.
            self.close()
        try:
            return self._ask(sent, request.method)
        except (ConnectionError, http.client.RemoteDisconnected):
            self.close()
            return 0, b""

    def close(self) -> None:
        if self._socket:
            self._socket.close()
            self._socket = None

    def _ask(self, sent: bytes, method: str) -> tuple[int, bytes]:
        self._socket = self._socket or socket.create_connection(self._address, timeout=self._seconds)
        self._socket.sendall(sent)
        answer = http.client.HTTPResponse(self._socket, method=method)
        answer.begin()
        body = answer.read()
        if answer.will_close:
            self.close()
        return answer.status, body
