"""Exports as tests take them: whole, cut off, and gone on with."""

from collections.abc import AsyncGenerator
from typing import Any

import orjson
import pytest

from app.domain import export as domain
from app.domain.export import Chain, Export, cursor_in
from app.domain.search import Filters
from app.domain.signing import Signer
from app.domain.tenancy import Caller
from app.generation import export, export_begin
from app.generation.ledger import Ledger
from app.store.db import Database

Json = dict[str, Any]

SIGNER = Signer(bytes(range(32)))


def a_ledger(db: Database) -> Ledger:
    """Of a server that has a key to sign with."""
    return Ledger(db, SIGNER)


async def begun(db: Database, caller: Caller, **filters: Any) -> tuple[Export, Chain]:
    return await export_begin.begin(a_ledger(db), caller, Filters(**filters), form="jsonl")


async def rest(db: Database, caller: Caller, started: tuple[Export, Chain]) -> bytes:
    return b"".join([said async for said in pieces(db, caller, started)])


def pieces(db: Database, caller: Caller, started: tuple[Export, Chain]) -> AsyncGenerator[bytes]:
    return export.lines(db, caller, *started)


async def exported(db: Database, caller: Caller, **filters: Any) -> bytes:
    """A whole export."""
    return await rest(db, caller, await begun(db, caller, **filters))


async def resumed(db: Database, caller: Caller, cursor: str, **filters: Any) -> bytes:
    """What comes behind a cursor."""
    return await rest(db, caller, await export_begin.resume(a_ledger(db), caller, Filters(**filters), cursor))


def objects(raw: bytes, kind: str | None = None) -> list[Json]:
    """What the lines say; those of one kind."""
    said = [orjson.loads(line) for line in raw.splitlines()]
    return [each for each in said if kind in {None, each["object"]}]


def names(raw: bytes) -> list[str]:
    """The responses in an export, in their order."""
    return [each["response"]["id"] for each in objects(raw, "export.response")]


def kept(raw: bytes) -> tuple[bytes, str]:
    """What of a broken export is kept, and the cursor that it ends with."""
    lines = raw.splitlines(keepends=True)
    while lines and not cursor_in(lines[-1]):
        lines.pop()
    return b"".join(lines), cursor_in(lines[-1]) or "" if lines else ""


def with_many_cursors(monkeypatch: pytest.MonkeyPatch, lines: int = 2) -> None:
    """Small links and small pages, so that few responses have all that many have."""
    monkeypatch.setattr(domain, "CURSOR_LINES", lines)
    monkeypatch.setattr(export, "FIRST_ROWS", 1)
    monkeypatch.setattr(export, "MAX_ROWS", 3)
    monkeypatch.setattr(export, "RECORDS", 3)
