"""What was done, noted in the transaction that did it. `ledger` makes the audit trail of it, and the facts.

A note is one row without an index beside its key: nobody waits for anybody, so that creates of one tenant
do not queue up behind its trail (docs/decisions/0023).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import UUID

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from app.domain.audit import Action
from app.store.db import Tx
from app.store.statements import Statement
from app.store.tables import audit_outbox as o

_p = sa.bindparam
_NOTE = ("tenant_id", "subject", "key_id", "action", "digest", "data")

_insert = Statement(
    sa.insert(o).values(
        tenant_id=_p("tenant_id"),
        subject=_p("subject"),
        key_id=_p("key_id"),
        action=_p("action"),
        digest=_p("digest"),
        data=_p("data"),
    )
)
_insert_many = Statement(
    sa.insert(o).from_select(
        ["tenant_id", "subject", "key_id", "action", "data"],
        sa.select(
            _p("tenant_id", type_=sa.BigInteger),
            sa.func.unnest(_p("subjects", type_=pg.ARRAY(pg.UUID))),
            _p("key_id", type_=pg.UUID),
            sa.func.unnest(_p("actions", type_=pg.ARRAY(sa.SmallInteger))),
            sa.func.unnest(_p("texts", type_=pg.ARRAY(sa.Text))),
        ),
    )
)


def noting(
    change: Any,
    action: Action | None = None,
    *,
    queueing: Callable[[sa.CTE], sa.CTE] | None = None,
    also: Callable[[sa.CTE], sa.CTE] | None = None,
) -> Statement:
    """A change of one response together with its note: one statement, so neither is there alone.

    Takes `digest` and `data` beside what the change takes, and `action` where that is not fixed. What
    changes nothing notes nothing.

    Args:
        change: an insert or update that returns the response's `id` first.
        queueing: what else is written with it; how many rows that were is returned by its name.
        also: the same of what nobody counts.
    """
    changed = change.cte("changed")
    subject = next(iter(changed.c))
    done = _p("action", type_=sa.SmallInteger) if action is None else sa.literal_column(str(int(action)))
    values = (
        _p("tenant_id", type_=sa.BigInteger),
        subject,
        _p("key_id", type_=pg.UUID),
        done,
        _p("digest", type_=sa.LargeBinary),
        _p("data", type_=sa.Text),
    )
    written = [pg.insert(o).from_select([*_NOTE], sa.select(*values)).cte("noted")]
    if also:
        written.append(also(changed))
    if queueing is None:
        return Statement(sa.select(*changed.c).add_cte(*written))
    queued = queueing(changed)
    count = sa.select(sa.func.count()).select_from(queued).scalar_subquery()
    return Statement(sa.select(*changed.c, count.label(queued.name)).add_cte(*written))


async def note(
    tx: Tx,
    action: Action,
    subject: UUID | None = None,
    data: Mapping[str, Any] | None = None,
    *,
    digest: bytes | None = None,
) -> None:
    """Note what this transaction does."""
    await tx.fetch(_insert, subject=subject, action=action, digest=digest, data=text(data or {}))


async def note_many(tx: Tx, notes: Sequence[tuple[Action, UUID | None, Mapping[str, Any]]]) -> None:
    """Note several things that one key did, in their order."""
    await tx.fetch(
        _insert_many,
        subjects=[subject for _, subject, _ in notes],
        actions=[int(action) for action, _, _ in notes],
        texts=[text(data) for _, _, data in notes],
    )


def text(data: Mapping[str, Any]) -> str:
    """A note's data as it is kept: a column of text can hold every JSON but a NUL, which orjson escapes."""
    return orjson.dumps(data).decode()
