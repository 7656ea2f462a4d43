"""/ui/stats: what responses came to, day by day and by model; by user where somebody wants to know."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import HTMLResponse

from app.api.deps import CallerDep, ResourcesDep
from app.api.response_lists import MOST_USER_DAYS
from app.api.scopes import READS
from app.domain.response import Status
from app.domain.search import Filters
from app.domain.tenancy import Caller
from app.resources import Resources
from app.store import day_stats, search, stats
from app.store.day_stats import SplitBy
from app.store.stats import Asked
from app.ui import addresses, figures, first_steps, plots, spans
from app.ui.pieces import clipped
from app.ui.rendering import in_thread, page, text
from app.ui.spans import Span

router = APIRouter(prefix="/stats")

ADDRESS = f"{addresses.ROOT}/stats"
USERS = f"{ADDRESS}/users"
RANGES = ("7", "30", "90")
"""Days up to today that are offered."""

Range = Literal["7", "30", "90"]
Ended = Literal["completed", "incomplete", "failed", "cancelled"]


@dataclass(frozen=True, slots=True)
class Question:
    """What an address asks for."""

    span: Span
    model: str | None
    status: Status | None
    given: Mapping[str, str]
    """As it stands in the address."""

    @property
    def asked(self) -> Asked:
        return Asked(self.span.first, self.span.end, self.model, self.status)

    @property
    def ranges(self) -> list[tuple[str, str, bool]]:
        """The ranges that are offered: their days, their addresses, and whether it is this one."""
        own = "" if {"from", "to"} & self.given.keys() else self.given.get("days", RANGES[1])
        fixed = {"from": "", "to": ""}
        return [
            (each, self.at(days="" if each == RANGES[1] else each, **fixed), each == own) for each in RANGES
        ]

    @property
    def chips(self) -> list[tuple[str, str, str]]:
        """What is filtered by: what that is called, the value, and the address without it."""
        words = {"model": "Model", "status": "Status"}
        return [
            (words[name], clipped(self.given[name]), self.at(**{name: ""}))
            for name in words
            if name in self.given
        ]

    def at(self, path: str = ADDRESS, **changes: str) -> str:
        """The address with some of it changed; what is empty is left out."""
        pairs = {name: value for name, value in {**self.given, **changes}.items() if value}
        return f"{path}?{urlencode(pairs)}" if pairs else path

    def responses(self, **filters: str) -> str:
        """The list of what was counted, filtered further. What has no place in an address is left out."""
        within = {"created_after": f"{self.span.first}T00:00"}
        if not self.span.is_until_now:
            within["created_before"] = f"{self.span.end}T00:00"
        own = {name: self.given[name] for name in ("model", "status") if name in self.given}
        return f"{addresses.HOME}?{urlencode({**own, **filters, **within})}"


async def _question(
    days: Range = "30",
    first: Annotated[date | None, Query(alias="from")] = None,
    last: Annotated[date | None, Query(alias="to")] = None,
    model: Annotated[str | None, Query(max_length=512)] = None,
    status: Ended | None = None,
    by: SplitBy = "status",
) -> Question:
    span = spans.span(first, last, days=int(days))
    said = {
        "days": "" if first or last or days == RANGES[1] else days,
        "from": first and str(first),
        "to": last and str(last),
        "model": model,
        "status": status,
        "by": "" if by == "status" else by,
    }
    given = {name: value for name, value in said.items() if value}
    return Question(span, model, Status[status.upper()] if status else None, given)


QuestionDep = Annotated[Question, Depends(_question)]


@router.get("", dependencies=READS)
async def show_stats(
    request: Request, caller: CallerDep, it: ResourcesDep, question: QuestionDep, by: SplitBy = "status"
) -> Response:
    """What the responses of these days came to."""
    await it.ledger.settle(caller)
    shown = await _figures(caller, it, question, by)
    is_new = not shown["totals"].count and not question.given and not await _has_any(caller, it)
    steps = first_steps.of_response(request, caller, it) if is_new else None
    values = {"question": question, "by": by, "first_steps": steps, "mark": plots.count_mark, **shown}
    return HTMLResponse(await in_thread(lambda: text(request, "stats.html", **values)))


@router.get("/users", dependencies=READS)
async def show_users(
    request: Request, caller: CallerDep, it: ResourcesDep, question: QuestionDep
) -> Response:
    """The users with the most responses. The facts of every one that is counted are read for that."""
    is_too_long, found = question.span.days > MOST_USER_DAYS, list[stats.Group]()
    if not is_too_long:
        await it.ledger.settle(caller)
        async with it.db.begin(caller) as tx:
            found = await stats.groups(tx, question.asked, "user")
    rows = [figures.row(group, nameless="No user named") for group in found[: figures.TOP]]
    template = "_users.html" if "hx-request" in request.headers else "users.html"
    has_more = len(found) > figures.TOP
    most_days = MOST_USER_DAYS if is_too_long else None
    return page(request, template, question=question, rows=rows, has_more=has_more, most_days=most_days)


async def _figures(caller: Caller, it: Resources, question: Question, by: SplitBy) -> dict[str, Any]:
    asked, span = question.asked, question.span
    async with it.db.begin(caller) as tx:
        whole = await day_stats.whole(tx, asked)
        statuses = await stats.groups(tx, asked, "status")
        models = await stats.groups(tx, asked, "model")
        days = await stats.groups(tx, asked, "day")
        apart = figures.models_apart(models)
        split = await day_stats.day_counts(tx, asked, by, apart if by == "model" else [*figures.STATUSES])
    return {
        "totals": figures.totals(whole, statuses),
        "responses": figures.by_model(span, split, apart)
        if by == "model"
        else figures.by_status(span, split),
        "tokens": figures.tokens(span, days),
        "cost": figures.cost(span, days),
        "times": figures.times(models),
        "models": [figures.row(group) for group in models[: figures.TOP]],
        "other_models": len(models) - figures.TOP,
    }


async def _has_any(caller: Caller, it: Resources) -> bool:
    """Whether there is any response at all, ended or not."""
    async with it.db.begin(caller) as tx:
        return bool((await search.find(tx, Filters(), limit=1)).found)
