"""What is to be delivered, queued by the statement that ends a response: neither is there without the other.

A tenant without an endpoint that wants the event pays one look into the index of endpoints.
"""

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from app.store import webhook_tables

_p = sa.bindparam
_d, _e = webhook_tables.webhook_deliveries, webhook_tables.webhook_endpoints


def queueing(ended: sa.CTE) -> sa.CTE:
    """A delivery for each endpoint of the tenant that wants `event`, for what has ended just now.

    Endpoints are locked against being deleted meanwhile: a delivery to one that is gone could not be
    stored, and a response must not fail to end because of its webhooks.

    Args:
        ended: returns the response's `id` first.
    """
    event = _p("event", type_=sa.Text)
    wanted = (
        sa.select(_e.c.tenant_id, _e.c.id, next(iter(ended.c)), event)
        .select_from(_e.join(ended, _e.c.tenant_id == _p("tenant_id", type_=sa.BigInteger)))
        .where(event == sa.any_(_e.c.event_types), ~webhook_tables.is_disabled(_e))
        .with_for_update(read=True, key_share=True, of=_e)
    )
    insert = pg.insert(_d).from_select(["tenant_id", "endpoint_id", "event_id", "event_type"], wanted)
    return insert.on_conflict_do_nothing().returning(_d.c.event_id).cte("deliveries")
