"""The tables of prompts; `tables` says what holds of all."""

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from app.store.metadata import metadata

# Prompts are named by text: whoever brings them from elsewhere keeps the names that programs know.
prompts = sa.Table(
    "prompts",
    metadata,
    sa.Column("tenant_id", sa.BigInteger, nullable=False),
    sa.Column("key", pg.UUID, nullable=False, comment="UUIDv7: its place in the list"),
    sa.Column("latest", sa.Integer, nullable=False, comment="Number of its newest version"),
    sa.Column("pinned", sa.Integer, comment="The version that counts unless one is asked for; null: latest"),
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
    sa.PrimaryKeyConstraint("tenant_id", "id"),
    sa.CheckConstraint("pinned between 1 and latest", name="pinned"),
    # Serves the list, and no other prompt's versions are found by a key.
    sa.Index("uq_prompts__key", "tenant_id", "key", unique=True, postgresql_where=sa.text("not is_deleted")),
)

# Never changed: a response says by which version it was made.
prompt_versions = sa.Table(
    "prompt_versions",
    metadata,
    sa.Column("tenant_id", sa.BigInteger, nullable=False),
    sa.Column("prompt_key", pg.UUID, nullable=False),
    sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=sa.func.now()),
    sa.Column("number", sa.Integer, nullable=False, comment="Counted from 1 without gaps"),
    sa.Column("template", sa.Text, nullable=False, comment="JSON"),
    sa.PrimaryKeyConstraint("tenant_id", "prompt_key", "number"),
)

NAMES = ("prompts", "prompt_versions")
