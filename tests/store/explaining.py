"""Plans as the pool really makes them: beneath row-level security, and for the values that were asked for."""

from collections.abc import Awaitable, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from app.domain.tenancy import Caller
from app.store.db import Database, Tx
from app.store.statements import Statement

Node = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Plan:
    """What one statement has really done."""

    top: Node

    @property
    def nodes(self) -> list[Node]:
        """What was run of it."""
        return [node for node in walk(self.top) if node["Actual Loops"]]

    @property
    def scans(self) -> list[Node]:
        """What read a table or an index, in the order of the plan."""
        return [node for node in self.nodes if "Scan" in node["Node Type"] and name_of(node)]

    @property
    def driver(self) -> str:
        """The index, or else the table, that the others follow."""
        return next((name_of(node) for node in self.scans), "")

    @property
    def read(self) -> int:
        """How many rows of tables, and entries of bitmaps, were looked at, kept or not."""
        return round(sum(_looked_at(node) for node in self.scans))

    @property
    def found(self) -> int:
        """How many rows came out."""
        return round(self.top["Actual Rows"])


async def explained(db: Database, caller: Caller, call: Callable[[Any], Awaitable[object]]) -> list[Plan]:
    """The plans of all statements of a call but those that read no table."""
    async with db.begin(caller) as tx:
        probe = _Explaining(tx)
        await call(probe)
    return [plan for plan in probe.plans if plan.scans]


class _Explaining(Tx):
    """Runs each statement twice: explained, and for its answer."""

    __slots__ = ("plans",)

    def __init__(self, tx: Tx) -> None:
        super().__init__(tx._driver, tx.tenant_id, tx._fixed["key_id"])
        self.plans: list[Plan] = []

    async def fetch(self, statement: Statement, **values: Any) -> Any:
        arguments = statement.arguments(values | self._fixed)
        # Prepared and executed, so that the session decides whether the plan is for these values or for any.
        await self._driver.execute(f"prepare probe as {statement.sql}")
        call = f"probe({', '.join(map(_literal, arguments))})" if arguments else "probe"
        found = await self._driver.fetch(f"explain (analyze, timing off, format json) execute {call}")
        await self._driver.execute("deallocate probe")
        self.plans.append(Plan(orjson.loads(next(iter(found[0].values())))[0]["Plan"]))
        return await super().fetch(statement, **values)


def walk(node: Node) -> Iterator[Node]:
    yield node
    for child in node.get("Plans", ()):
        yield from walk(child)


def name_of(node: Node) -> str:
    return node.get("Index Name") or node.get("Relation Name") or ""


def _literal(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, int):
        return str(int(value)) if not isinstance(value, bool) else str(value)
    text = f"{{{','.join(map(str, value))}}}" if isinstance(value, list) else str(value)
    return "'" + text.replace("'", "''") + "'"


def _looked_at(node: Node) -> float:
    gone = node.get("Rows Removed by Filter", 0) + node.get("Rows Removed by Index Recheck", 0)
    return (node["Actual Rows"] + gone) * node["Actual Loops"]
