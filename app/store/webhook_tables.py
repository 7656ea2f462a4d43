"""The tables of webhooks: endpoints, what is to be delivered to them, and each attempt at it.

The row of a delivery is its place in the queue (docs/decisions/0011 and 0028). Unlike those of responses
these rows refer to each other: they are written off the hot path, and go with their endpoint.
"""

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from app.store.metadata import metadata

webhook_endpoints = sa.Table(
    "webhook_endpoints",
    metadata,
    sa.Column("tenant_id", sa.BigInteger, nullable=False),
    sa.Column("id", pg.UUID, nullable=False),
    sa.Column("updated_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=sa.func.now()),
    sa.Column("old_secret_until", sa.TIMESTAMP(timezone=True)),
    sa.Column("rests_until", sa.TIMESTAMP(timezone=True), comment="It fails again and again: left alone"),
    sa.Column("failures", sa.Integer, nullable=False, server_default="0", comment="Since its last success"),
    sa.Column(
        "standing",
        sa.SmallInteger,
        nullable=False,
        server_default="1",
        comment="Whether its last attempt succeeded (2), failed (0), or there was none yet (1)",
    ),
    sa.Column("event_types", pg.ARRAY(sa.Text), nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("secret_hint", sa.Text, nullable=False),
    sa.Column("secret", sa.LargeBinary, nullable=False, comment="Sealed"),
    sa.Column("old_secret", sa.LargeBinary, comment="Sealed; signs beside the new one until its time"),
    sa.PrimaryKeyConstraint("tenant_id", "id"),
)

# A response ends once, so its id is that of the event, and with the endpoint's the delivery's.
webhook_deliveries = sa.Table(
    "webhook_deliveries",
    metadata,
    sa.Column("tenant_id", sa.BigInteger, nullable=False),
    sa.Column("endpoint_id", pg.UUID, nullable=False),
    sa.Column("event_id", pg.UUID, nullable=False, comment="The response that has ended"),
    sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=sa.func.now()),
    sa.Column(
        "queued_at",
        sa.TIMESTAMP(timezone=True),
        nullable=False,
        server_default=sa.func.now(),
        comment="At first, or when it was last replayed",
    ),
    sa.Column(
        "due_at",
        sa.TIMESTAMP(timezone=True),
        server_default=sa.func.now(),
        comment="When it is tried, or the lease of who tries it is over; null once it has ended",
    ),
    sa.Column("ended_at", sa.TIMESTAMP(timezone=True)),
    sa.Column("state", sa.SmallInteger, nullable=False, server_default="0"),
    sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
    sa.Column("tries", sa.Integer, nullable=False, server_default="0", comment="Since it was queued"),
    sa.Column("event_type", sa.Text, nullable=False),
    sa.PrimaryKeyConstraint("tenant_id", "endpoint_id", "event_id"),
    sa.ForeignKeyConstraint(
        ["tenant_id", "endpoint_id"],
        ["webhook_endpoints.tenant_id", "webhook_endpoints.id"],
        ondelete="CASCADE",
    ),
    sa.CheckConstraint("(due_at is null) = (state > 0) and (ended_at is null) = (state = 0)", name="state"),
    # Each endpoint's queue, in the order of the tenants; what is due, whoever's; what is old.
    sa.Index(
        "ix_webhook_deliveries__queue",
        "tenant_id",
        "endpoint_id",
        "due_at",
        postgresql_where=sa.text("due_at is not null"),
    ),
    sa.Index("ix_webhook_deliveries__due_at", "due_at", postgresql_where=sa.text("due_at is not null")),
    sa.Index("ix_webhook_deliveries__ended_at", "ended_at", postgresql_where=sa.text("ended_at is not null")),
)

webhook_attempts = sa.Table(
    "webhook_attempts",
    metadata,
    sa.Column("tenant_id", sa.BigInteger, nullable=False),
    sa.Column("endpoint_id", pg.UUID, nullable=False),
    sa.Column("event_id", pg.UUID, nullable=False),
    sa.Column("started_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=sa.func.now()),
    sa.Column("ended_at", sa.TIMESTAMP(timezone=True)),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("status_code", sa.SmallInteger, comment="What the endpoint answered; null if it did not"),
    sa.Column("reason", sa.Text, comment="How it ended; null while it runs"),
    sa.PrimaryKeyConstraint("tenant_id", "endpoint_id", "event_id", "attempt"),
    sa.ForeignKeyConstraint(
        ["tenant_id", "endpoint_id", "event_id"],
        [
            "webhook_deliveries.tenant_id",
            "webhook_deliveries.endpoint_id",
            "webhook_deliveries.event_id",
        ],
        ondelete="CASCADE",
    ),
)

FOR_EVER = sa.literal_column("'infinity'", sa.TIMESTAMP(timezone=True))


def is_disabled(endpoints: sa.FromClause) -> sa.ColumnElement[bool]:
    """Whether an endpoint is left alone for ever, because its receiver said that it is gone."""
    return sa.func.coalesce(endpoints.c.rests_until == FOR_EVER, sa.false())


NAMES = tuple(table.name for table in (webhook_endpoints, webhook_deliveries, webhook_attempts))
"""What they are called, in the order in which they are made."""
