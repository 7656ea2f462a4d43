"""Add what background responses need: the queue's columns, attempts and events.

Reason: a response row with status queued is the work; attempts fence its writers; events are journalled.
Phase: expand

Revision: 0002, after 0001, 2026-11-21
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("set local lock_timeout = '3s'")
    # Constants as defaults: no row is rewritten, and the previous release goes on inserting.
    op.add_column("responses", sa.Column("mode", sa.SmallInteger, nullable=False, server_default="0"))
    op.add_column("responses", sa.Column("priority", sa.SmallInteger, nullable=False, server_default="0"))
    op.add_column("responses", sa.Column("attempt", sa.SmallInteger, nullable=False, server_default="0"))
    op.add_column("responses", sa.Column("event_count", sa.Integer, nullable=False, server_default="0"))
    op.add_column("responses", sa.Column("lease_until", sa.TIMESTAMP(timezone=True)))
    op.add_column("responses", sa.Column("expires_at", sa.TIMESTAMP(timezone=True)))
    op.add_column("responses", sa.Column("queued_at", sa.TIMESTAMP(timezone=True)))
    op.add_column("responses", sa.Column("request", sa.LargeBinary))
    op.add_column("responses", sa.Column("stream_shape", sa.LargeBinary))
    # Compressed by us already, as are the two below: pglz would only spend time on it.
    op.execute(
        "alter table responses alter request set storage external, alter stream_shape set storage external"
    )
    op.create_check_constraint(
        op.f("ck_responses__lease"), "responses", "(lease_until is not null) = (status = 1)"
    )
    # Partial: only unfinished rows are in them, so a finished response costs them nothing.
    op.create_index(
        "ix_responses__queue",
        "responses",
        ["tenant_id", "priority", "id"],
        postgresql_where=sa.text("status = 0"),
    )
    op.create_index(
        "ix_responses__waiting", "responses", ["queued_at"], postgresql_where=sa.text("status = 0")
    )
    op.create_index(
        "ix_responses__running", "responses", ["tenant_id"], postgresql_where=sa.text("status = 1")
    )
    op.create_index(
        "ix_responses__lease", "responses", ["lease_until"], postgresql_where=sa.text("status = 1")
    )
    op.create_index(
        "ix_responses__expiry",
        "responses",
        ["expires_at"],
        postgresql_where=sa.text("expires_at is not null"),
    )
    _create_attempts()
    _create_events()


def _create_attempts() -> None:
    op.create_table(
        "response_attempts",
        sa.Column("tenant_id", sa.BigInteger, nullable=False),
        sa.Column("response_id", pg.UUID, nullable=False),
        sa.Column("started_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("ended_at", sa.TIMESTAMP(timezone=True)),
        sa.Column("attempt", sa.SmallInteger, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, comment="How it ended; null while it runs"),
        sa.Column("upstream_id", sa.Text),
        sa.Column(
            "detail", sa.LargeBinary, comment="Usage and partial output of an attempt that did not count"
        ),
        sa.PrimaryKeyConstraint("tenant_id", "response_id", "attempt", name="pk_response_attempts"),
    )
    op.execute("alter table response_attempts alter detail set storage external")


def _create_events() -> None:
    op.create_table(
        "response_events",
        sa.Column("tenant_id", sa.BigInteger, nullable=False),
        sa.Column("response_id", pg.UUID, nullable=False),
        sa.Column(
            "last_seq", sa.Integer, nullable=False, comment="Sequence number of the batch's last event"
        ),
        sa.Column("codec", sa.SmallInteger, nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("data", sa.LargeBinary, nullable=False, comment="Frames as they are streamed, zstd"),
        sa.PrimaryKeyConstraint("tenant_id", "response_id", "last_seq", name="pk_response_events"),
    )
    op.create_index("ix_response_events__created_at", "response_events", ["created_at"])
    op.execute("alter table response_events alter data set storage external")


def downgrade() -> None:
    op.execute("set local lock_timeout = '3s'")
    op.drop_table("response_events")
    op.drop_table("response_attempts")
    for index in ("queue", "waiting", "running", "lease", "expiry"):
        op.drop_index(f"ix_responses__{index}", "responses")
    op.drop_constraint(op.f("ck_responses__lease"), "responses")
    columns = (
        "mode",
        "priority",
        "attempt",
        "event_count",
        "lease_until",
        "expires_at",
        "queued_at",
        "request",
        "stream_shape",
    )
    for column in columns:
        op.drop_column("responses", column)
