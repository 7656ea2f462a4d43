"""Settings that have changed, noted in the server's own trail when a process starts with them."""

from collections.abc import Mapping
from typing import Any

import orjson

from app.domain.audit import SERVER, Action
from app.store import audit, outbox
from app.store.db import Database

_NOTHING: Mapping[str, Any] = {}


async def note_settings(db: Database, process: str, settings: Mapping[str, Any]) -> None:
    """Note what differs from the last that a process of this kind has started with.

    Compared by kind, because workers may be given other settings than API processes: each would else undo
    the other's with every start. Those that start at once take turns by the lock of the trail's head, so a
    change is noted once; two kinds of API processes with settings of their own note theirs with each start.

    Args:
        process: the kind of process.
        settings: all that there are, without secrets.
    """
    beginning = outbox.text({"process": process})[:-1]
    async with db.begin_system() as tx:
        mine = tx.of(SERVER)
        await audit.lock_head(mine)
        last = await audit.last_data(mine, Action.SETTINGS_CHANGED, beginning)
        before = _settings_of(last)
        if before != settings:
            data = {"process": process, "changed": _changes(before, settings), "settings": settings}
            await outbox.note(mine, Action.SETTINGS_CHANGED, None, data)


def _settings_of(data: str | None) -> Mapping[str, Any] | None:
    """What a record says; one that cannot be read says nothing, and keeps no process from starting."""
    try:
        return orjson.loads(data or "")["settings"]
    except (KeyError, TypeError, ValueError):
        return None


def _changes(before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> dict[str, Any]:
    """Every name with its old and its new value; nothing where these are the first that are known."""
    if before is None:
        return {}
    return {
        name: {"old": before.get(name), "new": after.get(name)}
        for name in sorted({*before, *after})
        if before.get(name, _NOTHING) != after.get(name, _NOTHING)
    }
