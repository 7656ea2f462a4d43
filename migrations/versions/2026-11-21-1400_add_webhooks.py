"""Add the endpoints of webhooks, what is to be delivered to them, and each attempt at it.

Reason: whoever made a background response wants to be told of its end without asking for it.
Phase: expand

Revision: 0006, after 0005, 2026-11-21
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

ROLE = "holdfast_tenant"
GRANTS = {
    "webhook_endpoints": "select, insert, update, delete",
    "webhook_deliveries": "select, insert, update",
    "webhook_attempts": "select, update",
}
"""What a tenant may do with its own. Deliveries go with their endpoint, attempts with their delivery."""


def upgrade() -> None:
    op.execute("set local lock_timeout = '3s'")
    _create_webhook_endpoints()
    _create_webhook_deliveries()
    _create_webhook_attempts()
    for table, rights in GRANTS.items():
        op.execute(f"alter table {table} enable row level security")
        op.execute(
            f"create policy tenant on {table} to {ROLE} "
            "using (tenant_id = current_setting('holdfast.tenant_id')::bigint)"
        )
        op.execute(f"grant {rights} on {table} to {ROLE}")


def _create_webhook_endpoints() -> None:
    op.create_table(
        "webhook_endpoints",
        sa.Column("tenant_id", sa.BigInteger(), nullable=False),
        sa.Column("id", postgresql.UUID(), nullable=False),
        sa.Column("updated_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("old_secret_until", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column(
            "rests_until",
            sa.TIMESTAMP(timezone=True),
            nullable=True,
            comment="It fails again and again: left alone",
        ),
        sa.Column(
            "failures", sa.Integer(), server_default="0", nullable=False, comment="Since its last success"
        ),
        sa.Column(
            "standing",
            sa.SmallInteger(),
            server_default="1",
            nullable=False,
            comment="Whether its last attempt succeeded (2), failed (0), or there was none yet (1)",
        ),
        sa.Column("event_types", postgresql.ARRAY(sa.Text()), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("secret_hint", sa.Text(), nullable=False),
        sa.Column("secret", sa.LargeBinary(), nullable=False, comment="Sealed"),
        sa.Column(
            "old_secret",
            sa.LargeBinary(),
            nullable=True,
            comment="Sealed; signs beside the new one until its time",
        ),
        sa.PrimaryKeyConstraint("tenant_id", "id", name=op.f("pk_webhook_endpoints")),
    )


def _create_webhook_deliveries() -> None:
    op.create_table(
        "webhook_deliveries",
        sa.Column("tenant_id", sa.BigInteger(), nullable=False),
        sa.Column("endpoint_id", postgresql.UUID(), nullable=False),
        sa.Column("event_id", postgresql.UUID(), nullable=False, comment="The response that has ended"),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "queued_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=False,
            comment="At first, or when it was last replayed",
        ),
        sa.Column(
            "due_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("now()"),
            nullable=True,
            comment="When it is tried, or the lease of who tries it is over; null once it has ended",
        ),
        sa.Column("ended_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("state", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("tries", sa.Integer(), server_default="0", nullable=False, comment="Since it was queued"),
        sa.Column("event_type", sa.Text(), nullable=False),
        sa.CheckConstraint(
            "(due_at is null) = (state > 0) and (ended_at is null) = (state = 0)",
            name=op.f("ck_webhook_deliveries__state"),
        ),
        sa.ForeignKeyConstraint(
            ["tenant_id", "endpoint_id"],
            ["webhook_endpoints.tenant_id", "webhook_endpoints.id"],
            name=op.f("fk_webhook_deliveries__tenant_id_endpoint_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint("tenant_id", "endpoint_id", "event_id", name=op.f("pk_webhook_deliveries")),
    )
    for name in ("due_at", "ended_at"):
        op.create_index(
            f"ix_webhook_deliveries__{name}",
            "webhook_deliveries",
            [name],
            unique=False,
            postgresql_where=sa.text(f"{name} is not null"),
        )
    op.create_index(
        "ix_webhook_deliveries__queue",
        "webhook_deliveries",
        ["tenant_id", "endpoint_id", "due_at"],
        unique=False,
        postgresql_where=sa.text("due_at is not null"),
    )


def _create_webhook_attempts() -> None:
    op.create_table(
        "webhook_attempts",
        sa.Column("tenant_id", sa.BigInteger(), nullable=False),
        sa.Column("endpoint_id", postgresql.UUID(), nullable=False),
        sa.Column("event_id", postgresql.UUID(), nullable=False),
        sa.Column("started_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("ended_at", sa.TIMESTAMP(timezone=True), nullable=True),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column(
            "status_code",
            sa.SmallInteger(),
            nullable=True,
            comment="What the endpoint answered; null if it did not",
        ),
        sa.Column("reason", sa.Text(), nullable=True, comment="How it ended; null while it runs"),
        sa.ForeignKeyConstraint(
            ["tenant_id", "endpoint_id", "event_id"],
            [
                "webhook_deliveries.tenant_id",
                "webhook_deliveries.endpoint_id",
                "webhook_deliveries.event_id",
            ],
            name=op.f("fk_webhook_attempts__tenant_id_endpoint_id_event_id"),
            ondelete="CASCADE",
        ),
        sa.PrimaryKeyConstraint(
            "tenant_id", "endpoint_id", "event_id", "attempt", name=op.f("pk_webhook_attempts")
        ),
    )


def downgrade() -> None:
    op.execute("set local lock_timeout = '3s'")
    for table in reversed(GRANTS):
        op.drop_table(table)
