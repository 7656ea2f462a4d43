"""The filters of a list as they stand in its address: kept from page to page, and taken off one by one."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import urlencode

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from app.ui.pieces import clipped
from app.ui.words import spoken

FILTERS: Mapping[str, str] = {
    "q": "Words",
    "status": "Status",
    "model": "Model",
    "tool": "Tool called",
    "user": "User",
    "created_after": "Created from",
    "created_before": "Created before",
    "error_code": "Error",
    "background": "In the background",
    "has_attempts_over": "Attempts over",
    "safety_identifier": "Safety identifier",
    "conversation": "Conversation",
    "previous_response_id": "Follows",
    "root": "Goes back to",
}
"""What responses can be filtered by, and how that is called on the page."""


_ALWAYS = frozenset({"q", "status", "model"})


@dataclass(frozen=True, slots=True)
class Given:
    """One filter that is given."""

    words: str
    value: str
    without: str
    """The address of the list without it."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What an address asks of a list, beside the place in it."""

    path: str
    pairs: tuple[tuple[str, str], ...]

    def value(self, name: str) -> str:
        """What a field of the form begins with."""
        return dict(self.pairs).get(name, "")

    @property
    def has_rare(self) -> bool:
        """Whether a filter is given that is not always in sight."""
        return any(name not in _ALWAYS and not name.startswith("metadata[") for name, _ in self.pairs)

    @property
    def given(self) -> list[Given]:
        return [
            Given(_words(name), clipped(value), _address(self.path, self.pairs[:i] + self.pairs[i + 1 :]))
            for i, (name, value) in enumerate(self.pairs)
        ]

    def at(self, **more: str) -> str:
        """The address of another place in the same list."""
        return _address(self.path, [*self.pairs, *more.items()])

    def beside(self, path: str, **more: str) -> str:
        """The same question asked of another path."""
        return _address(path, [*self.pairs, *more.items()])


def asked(request: Request, path: str) -> Asked:
    """The filters among the query's fields."""
    fields = request.query_params.multi_items()
    return Asked(path, tuple((name, value) for name, value in fields if _is_filter(name)))


def _is_filter(name: str) -> bool:
    return name in FILTERS or (name.startswith("metadata[") and name.endswith("]"))


def _words(name: str) -> str:
    return FILTERS.get(name) or clipped(spoken(name.removeprefix("metadata[").removesuffix("]")), 60)


def _address(path: str, pairs: Iterable[tuple[str, str]]) -> str:
    query = urlencode(list(pairs))
    return f"{path}?{query}" if query else path


class Tidied:
    """A field that was left empty in a form is not asked for: so every filter may stand in one form."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        query: bytes = scope.get("query_string", b"")
        if b"=&" in query or query.endswith(b"="):
            kept = [field for field in query.split(b"&") if field.partition(b"=")[2]]
            scope = {**scope, "query_string": b"&".join(kept)}
        await self._app(scope, receive, send)
