"""SQLAlchemy Core statements, compiled once and run on asyncpg's own pool.

Core keeps statements typed and in one place with the tables; running them through SQLAlchemy's
engine would cost three times the CPU of the driver (docs/decisions/0006).
"""

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql.asyncpg import dialect

from app.domain.jobs import Mode
from app.domain.response import Status

_DIALECT = dialect()

# Written out, not bound: a generic plan uses a partial index only where it can see the constant.
QUEUED, IN_PROGRESS, CANCELLED = (
    sa.literal_column(str(int(status)), sa.SmallInteger)
    for status in (Status.QUEUED, Status.IN_PROGRESS, Status.CANCELLED)
)

# The highest bits of `mode`, so that comparisons will do: those the planner has statistics for.
# Below EPHEMERAL are stored responses, below ITEMS all responses.
EPHEMERAL = sa.literal_column(str(int(Mode.EPHEMERAL)), sa.SmallInteger)
ITEMS = sa.literal_column(str(int(Mode.ITEMS)), sa.SmallInteger)


class Statement:
    """SQL text with numbered parameters, and the order in which their names stand in it."""

    __slots__ = ("_constants", "_order", "sql")

    def __init__(self, clause: sa.Executable) -> None:
        compiled = clause.compile(dialect=_DIALECT)  # type: ignore[attr-defined]
        self.sql = str(compiled)
        self._order: tuple[str, ...] = tuple(compiled.positiontup or ())
        self._constants: dict[str, Any] = {
            name: bind.value for name, bind in compiled.binds.items() if not bind.required
        }

    def arguments(self, values: Mapping[str, Any]) -> list[Any]:
        """Values in the order of the placeholders; those that stand in the statement are its own.

        Raises:
            KeyError: a parameter was forgotten. It is not null by that.
        """
        constants = self._constants
        return [values[name] if name in values else constants[name] for name in self._order]


def storable(text: str) -> str:
    """What a text column can hold: Postgres refuses NUL there."""
    return text.replace("\0", "\ufffd")
