"""Templates to pages. Everything that is put into one is escaped, unless `markdown` made it."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from fastapi import Request
from fastapi.responses import HTMLResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from app.domain.tenancy import Scope
from app.ui import addresses, assets, words

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Link:
    """An entry of the navigation."""

    words: str
    address: str
    scope: Scope = Scope.READ
    """Who may see it."""


NAVIGATION: Sequence[Link] = (
    Link("Responses", addresses.HOME),
    Link("Conversations", f"{addresses.ROOT}/conversations"),
    Link("Statistics", f"{addresses.ROOT}/stats"),
    Link("Audit", f"{addresses.ROOT}/audit", Scope.AUDIT),
)


def _environment() -> Environment:
    made = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters.update(
        {
            "count": words.count,
            "dollars": words.dollars,
            "duration": words.duration,
            "instant": words.instant,
            "iso": words.iso,
            "spoken": words.spoken,
        }
    )
    known: dict[str, Any] = {
        "asset": assets.address,
        "navigation": NAVIGATION,
        "to_conversation": addresses.conversation,
        "to_response": addresses.response,
        "SCOPES": Scope,
    }
    made.globals.update(known)
    return made


_TEMPLATES = _environment()
_THREADS = ThreadPoolExecutor(2, thread_name_prefix="page")


def text(request: Request, template: str, **values: Any) -> str:
    """A page or a fragment as HTML. Takes a while where much is shown: then it belongs in a thread."""
    visitor = request.scope.get("state", {}).get("visitor")
    found = _TEMPLATES.get_template(template)
    return found.render(visitor=visitor, here=request.url.path, **values)


async def in_thread(work: Callable[..., _T], *arguments: Any) -> _T:
    """Do what takes a while beside everything else; at most two such things at once, however many wait."""
    return await asyncio.get_running_loop().run_in_executor(_THREADS, work, *arguments)


def page(request: Request, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
    return HTMLResponse(text(request, template, **values), status)
