"""Add API keys and idempotency keys, and row-level security beneath every table of tenants.

Reason: a request acts as a role that cannot read another tenant's rows, whatever a statement forgets.
Phase: expand

Revision: 0004, after 0003, 2026-11-21
"""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql as pg

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

ROLE = "holdfast_tenant"
TABLES = (
    "responses",
    "response_attempts",
    "response_events",
    "conversations",
    "removed_items",
    "item_aliases",
    "api_keys",
    "idempotency_keys",
    "rate_limits",
)

# Roles are the whole server's: another database's migration may make it at the same moment. Who may make
# none is refused before Postgres looks whether it is there.
CREATE_ROLE = f"""
do $$ begin
    if not exists (select from pg_roles where rolname = '{ROLE}') then
        create role {ROLE} nologin;
    end if;
exception
    when duplicate_object or unique_violation then null;
    when insufficient_privilege then raise insufficient_privilege using message =
        'a role is missing that ' || quote_ident(current_user) || ' may not create: let a superuser run '
        '"create role {ROLE} nologin; grant {ROLE} to ' || quote_ident(current_user) || '", '
        'then migrate again';
end $$
"""
# Since Postgres 16 whoever makes a role is its member without the right to act as it.
GRANT_ROLE = f"""
do $$ declare may_act bool; begin
    if current_setting('server_version_num')::int < 160000 then
        may_act := pg_has_role(current_user, '{ROLE}', 'member');
    else
        may_act := pg_has_role(current_user, '{ROLE}', 'set');
    end if;
    if not may_act then
        grant {ROLE} to current_user;
    end if;
end $$
"""
GRANT_SCHEMA = f"""
do $$ begin
    execute 'grant usage on schema ' || quote_ident(current_schema()) || ' to {ROLE}';
end $$
"""


def upgrade() -> None:
    op.execute("set local lock_timeout = '3s'")
    op.add_column(
        "tenants",
        sa.Column("models", pg.ARRAY(sa.Text), comment="Glob patterns of models it may name; null is all"),
    )
    op.add_column(
        "responses", sa.Column("secrets", sa.LargeBinary, comment="Sealed; wiped when the response ends")
    )
    _create_api_keys()
    _create_idempotency_keys()
    _create_rate_limits()
    for statement in (CREATE_ROLE, GRANT_ROLE, GRANT_SCHEMA):
        op.execute(statement)
    op.execute(f"grant select on tenants, dictionaries to {ROLE}")
    # The owner is not bound by a policy, so the previous release goes on as before.
    for table in TABLES:
        op.execute(f"grant select, insert, update, delete on {table} to {ROLE}")
        op.execute(f"alter table {table} enable row level security")
        op.execute(
            f"create policy tenant on {table} to {ROLE} "
            "using (tenant_id = current_setting('holdfast.tenant_id')::bigint)"
        )


def _create_api_keys() -> None:
    op.create_table(
        "api_keys",
        sa.Column("tenant_id", sa.BigInteger, nullable=False),
        sa.Column("id", pg.UUID, nullable=False),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("expires_at", sa.TIMESTAMP(timezone=True)),
        sa.Column("revoked_at", sa.TIMESTAMP(timezone=True)),
        sa.Column("last_used_at", sa.TIMESTAMP(timezone=True)),
        sa.Column("scopes", sa.SmallInteger, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", "id", name="pk_api_keys"),
    )
    op.create_index("uq_api_keys__id", "api_keys", ["id"], unique=True)


def _create_idempotency_keys() -> None:
    op.create_table(
        "idempotency_keys",
        sa.Column("tenant_id", sa.BigInteger, nullable=False),
        sa.Column("response_id", pg.UUID, comment="The response that it stands for, or will"),
        sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=sa.func.now()),
        sa.Column("lease_until", sa.TIMESTAMP(timezone=True), comment="While the first request runs"),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("fingerprint", sa.LargeBinary, nullable=False, comment="Hash of route and body"),
        sa.Column("answer", sa.LargeBinary, comment="What was answered, where it cannot be read again; zstd"),
        sa.PrimaryKeyConstraint("tenant_id", "key", name="pk_idempotency_keys"),
    )
    op.create_index("ix_idempotency_keys__created_at", "idempotency_keys", ["created_at"])


def _create_rate_limits() -> None:
    op.create_table(
        "rate_limits",
        sa.Column("tenant_id", sa.BigInteger, autoincrement=False, nullable=False),
        sa.Column(
            "requests_until",
            sa.TIMESTAMP(timezone=True),
            nullable=False,
            comment="When all may be used again",
        ),
        sa.Column("tokens_until", sa.TIMESTAMP(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("tenant_id", name="pk_rate_limits"),
        postgresql_with={"fillfactor": "50"},
        prefixes=["UNLOGGED"],
    )


def downgrade() -> None:
    op.execute("set local lock_timeout = '3s'")
    # The role stays: other databases of the server may use it.
    for table in TABLES:
        op.execute(f"drop policy tenant on {table}")
        op.execute(f"alter table {table} disable row level security")
        op.execute(f"revoke all on {table} from {ROLE}")
    op.execute(f"revoke all on tenants, dictionaries from {ROLE}")
    for table in ("rate_limits", "idempotency_keys", "api_keys"):
        op.drop_table(table)
    op.drop_column("responses", "secrets")
    op.drop_column("tenants", "models")
