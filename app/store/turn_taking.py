"""Who counts a tenant's rows before adding one does it alone: two at once would not see each other's row."""

import sqlalchemy as sa

from app.store.statements import Statement


def alone(table: sa.Table) -> Statement:
    """Waits until no other transaction of the tenant that has fetched this is left, and keeps others waiting
    until its own ends. What is then counted is what is there: a statement sees all that was committed before.
    """
    tenant_id = sa.bindparam("tenant_id", type_=sa.BigInteger)
    key = sa.func.hashtextextended(sa.literal(table.name, sa.Text), tenant_id)
    return Statement(sa.select(sa.func.pg_advisory_xact_lock(key)))
