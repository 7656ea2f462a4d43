"""Add prompts and their versions, and the dialect of a key.

Reason: a create may refer to a template of its tenant, and clients of other services want theirs spoken.
Phase: expand

Revision: 0007, after 0006, 2026-11-21
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

ROLE = "holdfast_tenant"
GRANTS = {"prompts": "select, insert, update", "prompt_versions": "select, insert, delete"}
"""Nobody changes a version, nor frees an id: a tenant's role has not even the right to."""


def upgrade() -> None:
    op.execute("set local lock_timeout = '3s'")
    op.add_column(
        "api_keys",
        sa.Column("dialect", sa.Text, comment="In which it is answered; null: as the settings say"),
    )
    _create_prompts()
    _create_versions()
    for table, rights in GRANTS.items():
        op.execute(f"alter table {table} enable row level security")
        op.execute(
            f"create policy tenant on {table} to {ROLE} "
            "using (tenant_id = current_setting('holdfast.tenant_id')::bigint)"
        )
        op.execute(f"grant {rights} on {table} to {ROLE}")


def _create_prompts() -> None:
    op.create_table(
        "prompts",
        sa.Column("tenant_id", sa.BigInteger, nullable=False),
        sa.Column("key", pg.UUID, nullable=False, comment="UUIDv7: its place in the list"),
        sa.Column("latest", sa.Integer, nullable=False, comment="Number of its newest version"),
        sa.Column(
            "pinned", sa.Integer, comment="The version that counts unless one is asked for; null: latest"
        ),
        sa.Column(
            "is_deleted",
            sa.Boolean,
            nullable=False,
            server_default=sa.false(),
            comment="Kept, so that no other prompt comes by its id",
        ),
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("metadata", pg.JSONB, nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="pk_prompts"),
        sa.CheckConstraint("pinned between 1 and latest", name="pinned"),
    )
    op.create_index(
        "uq_prompts__key",
        "prompts",
        ["tenant_id", "key"],
        unique=True,
        postgresql_where=sa.text("not is_deleted"),
    )


def _create_versions() -> None:
    op.create_table(
        "prompt_versions",
        sa.Column("tenant_id", sa.BigInteger, nullable=False),
        sa.Column("prompt_key", pg.UUID, nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("number", sa.Integer, nullable=False, comment="Counted from 1 without gaps"),
        sa.Column("template", sa.Text, nullable=False, comment="JSON"),
        sa.PrimaryKeyConstraint("tenant_id", "prompt_key", "number", name="pk_prompt_versions"),
    )


def downgrade() -> None:
    op.execute("set local lock_timeout = '3s'")
    for table in GRANTS:
        op.drop_table(table)
    op.drop_column("api_keys", "dialect")
