"""Add the audit trail, what lists and statistics ask of responses, and sessions of the page.

Reason: auditors have to find, prove and export what was stored, and nothing of that may slow its storing.
Phase: expand

Revision: 0005, after 0004, 2026-11-21
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

ROLE = "holdfast_tenant"
READ = (
    "audit_records",
    "audit_heads",
    "audit_checkpoints",
    "response_facts",
    "response_terms",
    "response_stats",
)
"""What a tenant may read of its own and never write."""
OF_TENANTS = (*READ, "audit_outbox", "response_words")
NEW = (*OF_TENANTS, "ui_sessions")

# Beneath a policy no index of words could be used, for their comparison is not leakproof. This view holds
# whoever reads it to one tenant as the policies do, and lets the planner in: into the index of words alone,
# unless it is asked for a tenant's rows by their ids. An index knows nothing of `is not distinct from`.
VIEW = """
create view tenant_response_words as select tenant_id, id, words from response_words
where tenant_id is not distinct from nullif(current_setting('holdfast.tenant_id', true), '')::bigint
"""
APPEND_ONLY = """
create function holdfast_append_only() returns trigger language plpgsql as $$ begin
    raise exception 'the audit trail is append-only' using errcode = 'insufficient_privilege';
end $$
"""
# What is stored already was stored before there was a trail: 6 is `response.adopted`, and from 4 on a
# mode is that of results kept for polling, or of turns that are no responses.
ADOPT = """
insert into audit_outbox (tenant_id, subject, action, data)
select tenant_id, id, 6, '{}' from responses where mode < 4 and deleted_at is null order by tenant_id, id
"""


def upgrade() -> None:
    op.execute("set local lock_timeout = '3s'")
    _create_audit()
    _create_search()
    _create_ui_sessions()
    op.execute(VIEW)
    for table in OF_TENANTS:
        op.execute(f"alter table {table} enable row level security")
        op.execute(
            f"create policy tenant on {table} to {ROLE} "
            "using (tenant_id = current_setting('holdfast.tenant_id')::bigint)"
        )
    for table in (*READ, "tenant_response_words"):
        op.execute(f"grant select on {table} to {ROLE}")
    op.execute(f"grant select, insert on audit_outbox to {ROLE}")
    op.execute(APPEND_ONLY)
    for table in ("audit_records", "audit_checkpoints"):
        op.execute(
            f"create trigger append_only before update or delete or truncate on {table} "
            "for each statement execute function holdfast_append_only()"
        )
    op.execute(ADOPT)


def _create_audit() -> None:
    _create_audit_outbox()
    _create_audit_records()
    _create_audit_heads()
    _create_audit_checkpoints()


def _create_search() -> None:
    _create_response_facts()
    _create_response_terms()
    _create_response_words()
    _create_response_stats()


def _create_audit_outbox() -> None:
    op.create_table(
        "audit_outbox",
        sa.Column("tenant_id", sa.BigInteger(), nullable=False),
        sa.Column("seq", sa.BigInteger(), sa.Identity(always=False), nullable=False),
        sa.Column("at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column(
            "subject",
            postgresql.UUID(),
            nullable=True,
            comment="The response, conversation or key that it was done to",
        ),
        sa.Column(
            "key_id", postgresql.UUID(), nullable=True, comment="Whose doing it was; null is the server's own"
        ),
        sa.Column("action", sa.SmallInteger(), nullable=False),
        sa.Column(
            "digest",
            sa.LargeBinary(),
            nullable=True,
            comment="SHA-256 of the body and items that were stored with it",
        ),
        sa.Column("data", sa.Text(), nullable=False, comment="JSON, hashed as it stands"),
        sa.PrimaryKeyConstraint("tenant_id", "seq", name=op.f("pk_audit_outbox")),
    )


def _create_audit_records() -> None:
    op.create_table(
        "audit_records",
        sa.Column("tenant_id", sa.BigInteger(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False, comment="Counted from 1 without gaps"),
        sa.Column("at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("subject", postgresql.UUID(), nullable=True),
        sa.Column("key_id", postgresql.UUID(), nullable=True),
        sa.Column("action", sa.SmallInteger(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=True),
        sa.Column("previous_hash", sa.LargeBinary(), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("data", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "seq", name=op.f("pk_audit_records")),
    )
    op.create_index("ix_audit_records__action", "audit_records", ["tenant_id", "action", "seq"], unique=False)
    op.create_index("ix_audit_records__key_id", "audit_records", ["tenant_id", "key_id", "seq"], unique=False)
    op.create_index(
        "ix_audit_records__subject", "audit_records", ["tenant_id", "subject", "seq"], unique=False
    )


def _create_audit_heads() -> None:
    op.create_table(
        "audit_heads",
        sa.Column("tenant_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("checkpoint_seq", sa.BigInteger(), nullable=False, comment="Of the last checkpoint"),
        sa.Column("checkpoint_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", name=op.f("pk_audit_heads")),
        postgresql_with={"fillfactor": "50"},
    )


def _create_audit_checkpoints() -> None:
    op.create_table(
        "audit_checkpoints",
        sa.Column("tenant_id", sa.BigInteger(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column(
            "public_key",
            sa.LargeBinary(),
            nullable=True,
            comment="Ed25519; null where the server has no key to sign with",
        ),
        sa.Column("signature", sa.LargeBinary(), nullable=True),
        sa.PrimaryKeyConstraint("tenant_id", "seq", name=op.f("pk_audit_checkpoints")),
    )


def _create_response_facts() -> None:
    op.create_table(
        "response_facts",
        sa.Column("tenant_id", sa.BigInteger(), nullable=False),
        sa.Column("id", postgresql.UUID(), nullable=False),
        sa.Column("previous_id", postgresql.UUID(), nullable=True),
        sa.Column(
            "root_id", postgresql.UUID(), nullable=False, comment="First of its line, or its conversation"
        ),
        sa.Column("conversation_id", postgresql.UUID(), nullable=True),
        sa.Column("key_id", postgresql.UUID(), nullable=True, comment="The key that it was created with"),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cached_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("reasoning_tokens", sa.BigInteger(), nullable=False),
        sa.Column(
            "cost_nanos", sa.BigInteger(), nullable=True, comment="Billionths of a dollar; null is not known"
        ),
        sa.Column("duration_ms", sa.BigInteger(), nullable=True, comment="From its creation to its end"),
        sa.Column("depth", sa.Integer(), nullable=False, comment="Turns before it"),
        sa.Column(
            "status", sa.SmallInteger(), nullable=False, comment="Below 2: not ended, its row knows more"
        ),
        sa.Column("attempts", sa.SmallInteger(), nullable=False),
        sa.Column("is_background", sa.Boolean(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.Column("user", sa.Text(), nullable=True),
        sa.Column("safety_identifier", sa.Text(), nullable=True),
        sa.Column("error_code", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("tenant_id", "id", name=op.f("pk_response_facts")),
    )
    op.create_index(
        "ix_response_facts__attempts",
        "response_facts",
        ["tenant_id", "id"],
        unique=False,
        postgresql_where=sa.text("attempts > 1"),
    )
    op.create_index(
        "ix_response_facts__background",
        "response_facts",
        ["tenant_id", "id"],
        unique=False,
        postgresql_where=sa.text("is_background"),
    )
    op.create_index(
        "ix_response_facts__conversation_id",
        "response_facts",
        ["tenant_id", "conversation_id", "id"],
        unique=False,
        postgresql_where=sa.text('"conversation_id" is not null'),
    )
    op.create_index(
        "ix_response_facts__error_code",
        "response_facts",
        ["tenant_id", "error_code", "id"],
        unique=False,
        postgresql_where=sa.text('"error_code" is not null'),
    )
    op.create_index("ix_response_facts__model", "response_facts", ["tenant_id", "model", "id"], unique=False)
    op.create_index(
        "ix_response_facts__previous_id",
        "response_facts",
        ["tenant_id", "previous_id", "id"],
        unique=False,
        postgresql_where=sa.text('"previous_id" is not null'),
    )
    op.create_index(
        "ix_response_facts__root_id", "response_facts", ["tenant_id", "root_id", "id"], unique=False
    )
    op.create_index(
        "ix_response_facts__safety_identifier",
        "response_facts",
        ["tenant_id", "safety_identifier", "id"],
        unique=False,
        postgresql_where=sa.text('"safety_identifier" is not null'),
    )
    op.create_index(
        "ix_response_facts__status", "response_facts", ["tenant_id", "status", "id"], unique=False
    )
    op.create_index(
        "ix_response_facts__user",
        "response_facts",
        ["tenant_id", "user", "id"],
        unique=False,
        postgresql_where=sa.text('"user" is not null'),
    )


def _create_response_terms() -> None:
    op.create_table(
        "response_terms",
        sa.Column("tenant_id", sa.BigInteger(), nullable=False),
        sa.Column("id", postgresql.UUID(), nullable=False),
        sa.Column("kind", sa.SmallInteger(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "kind", "name", "value", "id", name=op.f("pk_response_terms")),
    )
    op.create_index("ix_response_terms__id", "response_terms", ["tenant_id", "id"], unique=False)


def _create_response_words() -> None:
    op.create_table(
        "response_words",
        sa.Column("tenant_id", sa.BigInteger(), nullable=False),
        sa.Column("id", postgresql.UUID(), nullable=False),
        sa.Column("words", postgresql.TSVECTOR(), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "id", name=op.f("pk_response_words")),
        postgresql_with={"toast_tuple_target": "8160"},
    )
    op.create_index(
        "ix_response_words__words",
        "response_words",
        ["words"],
        unique=False,
        postgresql_using="gin",
        postgresql_with={"gin_pending_list_limit": "256"},
    )


def _create_response_stats() -> None:
    op.create_table(
        "response_stats",
        sa.Column("tenant_id", sa.BigInteger(), nullable=False),
        sa.Column("day", sa.Date(), nullable=False, comment="UTC, of the response's creation"),
        sa.Column("status", sa.SmallInteger(), nullable=False),
        sa.Column("duration_step", sa.SmallInteger(), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cached_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("reasoning_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cost_nanos", sa.BigInteger(), nullable=False),
        sa.Column("model", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint(
            "tenant_id", "day", "model", "status", "duration_step", name=op.f("pk_response_stats")
        ),
    )


def _create_ui_sessions() -> None:
    op.create_table(
        "ui_sessions",
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.Column("tenant_id", sa.BigInteger(), nullable=False),
        sa.Column("key_id", postgresql.UUID(), nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("expires_at", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("hash", name=op.f("pk_ui_sessions")),
    )
    op.create_index("ix_ui_sessions__expires_at", "ui_sessions", ["expires_at"], unique=False)


def downgrade() -> None:
    op.execute("set local lock_timeout = '3s'")
    op.execute("drop view tenant_response_words")
    for table in NEW:
        op.drop_table(table)
    op.execute("drop function holdfast_append_only()")
