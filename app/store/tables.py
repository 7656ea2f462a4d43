"""The tables. Everything is keyed by tenant first; ids are UUIDv7, so primary keys sort by time.

A turn (a response with its new input items and its output items) is one row. Turns that follow each
other form a line (`chain_id`, `seq`); a second child of the same parent starts a line of its own and
remembers the lines it came from. A conversation is a line too, named by its own id. Why, and what the
alternatives cost: docs/decisions/0005 and 0015.
"""

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

metadata = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "ix": "ix_%(table_name)s__%(column_0_N_name)s",
        "uq": "uq_%(table_name)s__%(column_0_N_name)s",
        "ck": "ck_%(table_name)s__%(constraint_name)s",
        "fk": "fk_%(table_name)s__%(column_0_N_name)s",
    }
)

tenants = sa.Table(
    "tenants",
    metadata,
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=sa.func.now()),
    sa.Column("models", pg.ARRAY(sa.Text), comment="Glob patterns of models it may name; null is all"),
)

# Of a key only what checks it is kept: see `keys`.
api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("tenant_id", sa.BigInteger, nullable=False),
    sa.Column("id", pg.UUID, nullable=False),
    sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=sa.func.now()),
    sa.Column("expires_at", sa.TIMESTAMP(timezone=True)),
    sa.Column("revoked_at", sa.TIMESTAMP(timezone=True)),
    sa.Column("last_used_at", sa.TIMESTAMP(timezone=True)),
    sa.Column("scopes", sa.SmallInteger, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("hash", sa.LargeBinary, nullable=False),
    sa.PrimaryKeyConstraint("tenant_id", "id"),
    # A key is looked up before its tenant is known.
    sa.Index("uq_api_keys__id", "id", unique=True),
)

# What a client's `Idempotency-Key` stands for, for a day.
idempotency_keys = sa.Table(
    "idempotency_keys",
    metadata,
    sa.Column("tenant_id", sa.BigInteger, nullable=False),
    sa.Column("response_id", pg.UUID, comment="The response that it stands for, or will"),
    sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=sa.func.now()),
    sa.Column("lease_until", sa.TIMESTAMP(timezone=True), comment="While the first request runs"),
    sa.Column("key", sa.Text, nullable=False),
    sa.Column("fingerprint", sa.LargeBinary, nullable=False, comment="Hash of route and body"),
    sa.Column("answer", sa.LargeBinary, comment="What was answered, where it cannot be read again; zstd"),
    sa.PrimaryKeyConstraint("tenant_id", "key"),
    # Serves pruning by age.
    sa.Index("ix_idempotency_keys__created_at", "created_at"),
)

# A row names the dictionary it was compressed with by version, so a dump can be read without this code.
dictionaries = sa.Table(
    "dictionaries",
    metadata,
    sa.Column("version", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("content", sa.LargeBinary, nullable=False),
)

# No foreign keys: on the hot path one costs 15 to 25 % of the insert rate, and rows are never removed.
responses = sa.Table(
    "responses",
    metadata,
    sa.Column("tenant_id", sa.BigInteger, nullable=False),
    sa.Column("id", pg.UUID, nullable=False),
    sa.Column("chain_id", pg.UUID, nullable=False, comment="The line: its first turn's or conversation's id"),
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
    # On forked lines only: the ancestors' lines, and the last place taken of each.
    sa.Column("fork_chains", pg.ARRAY(pg.UUID)),
    sa.Column("fork_seqs", pg.ARRAY(sa.Integer)),
    # JSON of what the next turn must know beside the items: open calls, the upstream's own item ids.
    sa.Column("continuation", sa.LargeBinary),
    sa.Column("body", sa.LargeBinary, nullable=False, comment="The response without output; JSON, zstd"),
    sa.Column("items", sa.LargeBinary, nullable=False, comment="Input then output; JSON, commas, zstd"),
    # Of background responses alone; in a foreground row they keep their defaults.
    sa.Column("mode", sa.SmallInteger, nullable=False, server_default="0"),
    sa.Column("priority", sa.SmallInteger, nullable=False, server_default="0"),
    sa.Column("attempt", sa.SmallInteger, nullable=False, server_default="0"),
    sa.Column("event_count", sa.Integer, nullable=False, server_default="0"),
    sa.Column("lease_until", sa.TIMESTAMP(timezone=True)),
    sa.Column("expires_at", sa.TIMESTAMP(timezone=True)),
    # By Postgres's clock: an id is timed by the clock of whichever process minted it.
    sa.Column("queued_at", sa.TIMESTAMP(timezone=True)),
    sa.Column("request", sa.LargeBinary),
    sa.Column("stream_shape", sa.LargeBinary),
    sa.Column("conversation_id", pg.UUID, comment="The conversation it was made in, or meant for"),
    sa.Column(
        "context_tokens",
        sa.Integer,
        nullable=False,
        server_default="0",
        comment="Estimate of all items from the root to the end of this turn",
    ),
    sa.Column("secrets", sa.LargeBinary, comment="Sealed; wiped when the response ends"),
    sa.PrimaryKeyConstraint("tenant_id", "id"),
    sa.CheckConstraint("status between 0 and 5", name="status"),
    sa.CheckConstraint("(finished_at is not null) = (status >= 2)", name="finished"),
    sa.CheckConstraint("(fork_chains is null) = (fork_seqs is null)", name="fork"),
    sa.CheckConstraint("(lease_until is not null) = (status = 1)", name="lease"),
    # Partial: only unfinished rows are in these, so a finished response costs them nothing.
    # The tenants' queues in their order and the limit on them, what has waited too long, the limit on a
    # tenant's runs, expired leases, results kept for a while.
    sa.Index("ix_responses__queue", "tenant_id", "priority", "id", postgresql_where=sa.text("status = 0")),
    sa.Index("ix_responses__waiting", "queued_at", postgresql_where=sa.text("status = 0")),
    sa.Index("ix_responses__running", "tenant_id", postgresql_where=sa.text("status = 1")),
    sa.Index("ix_responses__lease", "lease_until", postgresql_where=sa.text("status = 1")),
    sa.Index("ix_responses__expiry", "expires_at", postgresql_where=sa.text("expires_at is not null")),
    # Serves the context walk, and refuses a second turn at the same place.
    sa.Index("uq_responses__line", "tenant_id", "chain_id", "seq", unique=True),
    # A row stays in its page: TOAST is where large rows lose their time (docs/decisions/0005).
    postgresql_with={"toast_tuple_target": "8160"},
)

# Its items are turns of its line. The row is rewritten with each turn, so it has no large column, and
# what changes then is in no index: such an update stays in its page.
conversations = sa.Table(
    "conversations",
    metadata,
    sa.Column("tenant_id", sa.BigInteger, nullable=False),
    sa.Column("id", pg.UUID, nullable=False),
    sa.Column("running_id", pg.UUID, comment="The response that may append; others are refused"),
    sa.Column("lease_until", sa.TIMESTAMP(timezone=True), comment="Infinity: until that response ends"),
    sa.Column("deleted_at", sa.TIMESTAMP(timezone=True)),
    sa.Column("next_seq", sa.Integer, nullable=False, comment="The place that the next turn will have"),
    sa.Column("fork_chains", pg.ARRAY(pg.UUID)),
    sa.Column("fork_seqs", pg.ARRAY(sa.Integer)),
    sa.Column("metadata", pg.JSONB, nullable=False),
    sa.PrimaryKeyConstraint("tenant_id", "id"),
    sa.CheckConstraint("(running_id is null) = (lease_until is null)", name="lease"),
    sa.CheckConstraint("(fork_chains is null) = (fork_seqs is null)", name="fork"),
    # Serves the filter of the list.
    sa.Index(
        "ix_conversations__metadata",
        "metadata",
        postgresql_using="gin",
        postgresql_ops={"metadata": "jsonb_path_ops"},
    ),
    postgresql_with={"fillfactor": "80"},
)

# An item taken out of a conversation stays in its turn: whoever was given it then was given it.
removed_items = sa.Table(
    "removed_items",
    metadata,
    sa.Column("tenant_id", sa.BigInteger, nullable=False),
    sa.Column("conversation_id", pg.UUID, nullable=False),
    sa.Column("turn_id", pg.UUID, nullable=False),
    sa.Column("place", sa.Integer, nullable=False, comment="Which item of the turn"),
    sa.Column("since_seq", sa.Integer, nullable=False, comment="Turns from here on do not see it"),
    # Each turn that is read asks for its own, however many lines there are; a fork asks for a line's.
    sa.PrimaryKeyConstraint("tenant_id", "turn_id", "conversation_id", "place"),
    sa.Index("ix_removed_items__conversation", "tenant_id", "conversation_id"),
)

# Ids that clients brought. Our own name their turn and place themselves.
item_aliases = sa.Table(
    "item_aliases",
    metadata,
    sa.Column("tenant_id", sa.BigInteger, nullable=False),
    sa.Column("turn_id", pg.UUID, nullable=False),
    sa.Column("place", sa.Integer, nullable=False),
    sa.Column("item_id", sa.Text, nullable=False),
    sa.PrimaryKeyConstraint("tenant_id", "item_id", "turn_id"),
)

response_attempts = sa.Table(
    "response_attempts",
    metadata,
    sa.Column("tenant_id", sa.BigInteger, nullable=False),
    sa.Column("response_id", pg.UUID, nullable=False),
    sa.Column("started_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=sa.func.now()),
    sa.Column("ended_at", sa.TIMESTAMP(timezone=True)),
    sa.Column("attempt", sa.SmallInteger, nullable=False),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, comment="How it ended; null while it runs"),
    sa.Column("upstream_id", sa.Text),
    sa.Column("detail", sa.LargeBinary, comment="Usage and partial output of an attempt that did not count"),
    sa.PrimaryKeyConstraint("tenant_id", "response_id", "attempt"),
)

response_events = sa.Table(
    "response_events",
    metadata,
    sa.Column("tenant_id", sa.BigInteger, nullable=False),
    sa.Column("response_id", pg.UUID, nullable=False),
    sa.Column("last_seq", sa.Integer, nullable=False, comment="Sequence number of the batch's last event"),
    sa.Column("codec", sa.SmallInteger, nullable=False),
    sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=sa.func.now()),
    sa.Column("data", sa.LargeBinary, nullable=False, comment="Frames as they are streamed, zstd"),
    sa.PrimaryKeyConstraint("tenant_id", "response_id", "last_seq"),
    # Serves pruning by age.
    sa.Index("ix_response_events__created_at", "created_at"),
)

# What a tenant has used of its limits in the last minute. Not logged: a crash forgets it, and a request
# then costs no flush of the log (docs/decisions/0022).
rate_limits = sa.Table(
    "rate_limits",
    metadata,
    sa.Column("tenant_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column(
        "requests_until", sa.TIMESTAMP(timezone=True), nullable=False, comment="When all may be used again"
    ),
    sa.Column("tokens_until", sa.TIMESTAMP(timezone=True), nullable=False),
    # Rows are rewritten with each request, and none of it is in an index: such an update stays in its page.
    postgresql_with={"fillfactor": "50"},
    prefixes=["UNLOGGED"],
)

TENANT_ROLE = "holdfast_tenant"
"""Whom a request acts as: a role that row-level security holds to one tenant's rows."""

TENANT_SETTING = "holdfast.tenant_id"
"""Which tenant that is."""

OF_TENANTS = (
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
"""The tables whose rows belong to a tenant; each has a policy (docs/decisions/0019)."""
