"""Create tenants, dictionaries and responses.

Reason: the first schema: one row per turn, keyed by tenant from the start.
Phase: expand

Revision: 0001, after nothing, 2026-11-21
"""

from pathlib import Path

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

DICTIONARY = Path(__file__).parents[2] / "app" / "store" / "dictionary_1.zstd"


def upgrade() -> None:
    op.execute("set local lock_timeout = '3s'")
    tenants = op.create_table(
        "tenants",
        sa.Column("id", sa.BigInteger, sa.Identity(), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.PrimaryKeyConstraint("id", name="pk_tenants"),
        sa.UniqueConstraint("name", name="uq_tenants__name"),
    )
    op.bulk_insert(tenants, [{"name": "default"}])
    dictionaries = op.create_table(
        "dictionaries",
        sa.Column("version", sa.SmallInteger, autoincrement=False, nullable=False),
        sa.Column("content", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("version", name="pk_dictionaries"),
    )
    content = DICTIONARY.read_bytes().hex()
    op.execute(dictionaries.insert().values(version=1, content=sa.text(f"decode('{content}', 'hex')")))
    _create_responses()


def _create_responses() -> None:
    op.create_table(
        "responses",
        sa.Column("tenant_id", sa.BigInteger, nullable=False),
        sa.Column("id", pg.UUID, nullable=False),
        sa.Column("chain_id", pg.UUID, nullable=False, comment="The line: the id of its first turn"),
        sa.Column("previous_id", pg.UUID, comment="The response this one was chained on"),
        sa.Column("finished_at", sa.TIMESTAMP(timezone=True)),
        sa.Column("deleted_at", sa.TIMESTAMP(timezone=True)),
        sa.Column("seq", sa.Integer, nullable=False, comment="Place in the line, counted from the root"),
        sa.Column("input_count", sa.Integer, nullable=False),
        sa.Column("output_count", sa.Integer, nullable=False),
        sa.Column("input_bytes", sa.Integer, nullable=False, comment="Where in `items` output begins"),
        sa.Column("status", sa.SmallInteger, nullable=False),
        sa.Column("codec", sa.SmallInteger, nullable=False, comment="Dictionary of body and items"),
        sa.Column("input_gated", sa.SmallInteger, nullable=False, comment="Fields shown only by `include`"),
        sa.Column("output_gated", sa.SmallInteger, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("fork_chains", pg.ARRAY(pg.UUID)),
        sa.Column("fork_seqs", pg.ARRAY(sa.Integer)),
        sa.Column("continuation", sa.LargeBinary),
        sa.Column("body", sa.LargeBinary, nullable=False, comment="The response without output; JSON, zstd"),
        sa.Column("items", sa.LargeBinary, nullable=False, comment="Input then output; JSON, commas, zstd"),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="pk_responses"),
        sa.CheckConstraint("status between 0 and 5", name=op.f("ck_responses__status")),
        sa.CheckConstraint("(finished_at is not null) = (status >= 2)", name=op.f("ck_responses__finished")),
        sa.CheckConstraint("(fork_chains is null) = (fork_seqs is null)", name=op.f("ck_responses__fork")),
        postgresql_with={"toast_tuple_target": "8160"},
    )
    op.create_index("uq_responses__line", "responses", ["tenant_id", "chain_id", "seq"], unique=True)
    # Compressed by us already: pglz would only spend time on it.
    op.execute("alter table responses alter body set storage external, alter items set storage external")


def downgrade() -> None:
    op.execute("set local lock_timeout = '3s'")
    op.drop_table("responses")
    op.drop_table("dictionaries")
    op.drop_table("tenants")
