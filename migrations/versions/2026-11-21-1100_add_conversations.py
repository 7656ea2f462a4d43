"""Add conversations: lines with a name, a lock and a metadata of their own.

Reason: a conversation is a line of turns that several clients append to, one at a time.
Phase: expand

Revision: 0003, after 0002, 2026-11-21
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("set local lock_timeout = '3s'")
    # Nullable, or a constant by default: no row is rewritten, and the previous release goes on inserting.
    op.add_column(
        "responses",
        sa.Column("conversation_id", pg.UUID, comment="The conversation it was made in, or meant for"),
    )
    op.add_column(
        "responses",
        sa.Column(
            "context_tokens",
            sa.Integer,
            nullable=False,
            server_default="0",
            comment="Estimate of all items from the root to the end of this turn",
        ),
    )
    op.alter_column("responses", "chain_id", comment="The line: its first turn's or conversation's id")
    _create_conversations()
    _create_removed_items()
    _create_item_aliases()


def _create_conversations() -> None:
    op.create_table(
        "conversations",
        sa.Column("tenant_id", sa.BigInteger, nullable=False),
        sa.Column("id", pg.UUID, nullable=False),
        sa.Column("running_id", pg.UUID, comment="The response that may append; others are refused"),
        sa.Column("lease_until", sa.TIMESTAMP(timezone=True), comment="Infinity: until that response ends"),
        sa.Column("deleted_at", sa.TIMESTAMP(timezone=True)),
        sa.Column("next_seq", sa.Integer, nullable=False, comment="The place that the next turn will have"),
        sa.Column("fork_chains", pg.ARRAY(pg.UUID)),
        sa.Column("fork_seqs", pg.ARRAY(sa.Integer)),
        sa.Column("metadata", pg.JSONB, nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="pk_conversations"),
        sa.CheckConstraint(
            "(running_id is null) = (lease_until is null)", name=op.f("ck_conversations__lease")
        ),
        sa.CheckConstraint(
            "(fork_chains is null) = (fork_seqs is null)", name=op.f("ck_conversations__fork")
        ),
        postgresql_with={"fillfactor": "80"},
    )
    op.create_index(
        "ix_conversations__metadata",
        "conversations",
        ["metadata"],
        postgresql_using="gin",
        postgresql_ops={"metadata": "jsonb_path_ops"},
    )


def _create_removed_items() -> None:
    op.create_table(
        "removed_items",
        sa.Column("tenant_id", sa.BigInteger, nullable=False),
        sa.Column("conversation_id", pg.UUID, nullable=False),
        sa.Column("turn_id", pg.UUID, nullable=False),
        sa.Column("place", sa.Integer, nullable=False, comment="Which item of the turn"),
        sa.Column("since_seq", sa.Integer, nullable=False, comment="Turns from here on do not see it"),
        sa.PrimaryKeyConstraint("tenant_id", "turn_id", "conversation_id", "place", name="pk_removed_items"),
    )
    op.create_index("ix_removed_items__conversation", "removed_items", ["tenant_id", "conversation_id"])


def _create_item_aliases() -> None:
    op.create_table(
        "item_aliases",
        sa.Column("tenant_id", sa.BigInteger, nullable=False),
        sa.Column("turn_id", pg.UUID, nullable=False),
        sa.Column("place", sa.Integer, nullable=False),
        sa.Column("item_id", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "item_id", "turn_id", name="pk_item_aliases"),
    )


def downgrade() -> None:
    op.execute("set local lock_timeout = '3s'")
    for table in ("item_aliases", "removed_items", "conversations"):
        op.drop_table(table)
    op.alter_column("responses", "chain_id", comment="The line: the id of its first turn")
    for column in ("conversation_id", "context_tokens"):
        op.drop_column("responses", column)
