"""The tables. Everything is keyed by tenant first; ids are UUIDv7, so primary keys sort by time.

A turn (a response with its new input items and its output items) is one row. Turns that follow each
other form a line (`chain_id`, `seq`); a second child of the same parent starts a line of its own and
remembers the lines it came from. A conversation is a line too, named by its own id. Why, and what the
alternatives cost: docs/decisions/0005 and 0015.
"""

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg

from app.store import prompt_tables, webhook_tables
from app.store.metadata import metadata

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
    sa.Column("dialect", sa.Text, comment="In which it is answered; null: as the settings say"),
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

# Ids that clients brought. Our own name their turn and place themselves, where that turn is stored.
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

# What was done, in the transaction that did it: the outbox from which the trail and the facts are made.
audit_outbox = sa.Table(
    "audit_outbox",
    metadata,
    sa.Column("tenant_id", sa.BigInteger, nullable=False),
    # Whatever follows from something that was committed has a greater number.
    sa.Column("seq", sa.BigInteger, sa.Identity(), nullable=False),
    sa.Column("at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=sa.func.now()),
    sa.Column("subject", pg.UUID, comment="The response, conversation or key that it was done to"),
    sa.Column("key_id", pg.UUID, comment="Whose doing it was; null is the server's own"),
    sa.Column("action", sa.SmallInteger, nullable=False),
    sa.Column("digest", sa.LargeBinary, comment="SHA-256 of the body and items that were stored with it"),
    sa.Column("data", sa.Text, nullable=False, comment="JSON, hashed as it stands"),
    sa.PrimaryKeyConstraint("tenant_id", "seq"),
)

# The trail: append-only, and each record carries the hash of the one before.
audit_records = sa.Table(
    "audit_records",
    metadata,
    sa.Column("tenant_id", sa.BigInteger, nullable=False),
    sa.Column("seq", sa.BigInteger, nullable=False, comment="Counted from 1 without gaps"),
    sa.Column("at", sa.TIMESTAMP(timezone=True), nullable=False),
    sa.Column("subject", pg.UUID),
    sa.Column("key_id", pg.UUID),
    sa.Column("action", sa.SmallInteger, nullable=False),
    sa.Column("digest", sa.LargeBinary),
    sa.Column("previous_hash", sa.LargeBinary, nullable=False),
    sa.Column("hash", sa.LargeBinary, nullable=False),
    sa.Column("data", sa.Text, nullable=False),
    sa.PrimaryKeyConstraint("tenant_id", "seq"),
    # What was done to one thing, all of one kind, all that one key did.
    sa.Index("ix_audit_records__subject", "tenant_id", "subject", "seq"),
    sa.Index("ix_audit_records__action", "tenant_id", "action", "seq"),
    sa.Index("ix_audit_records__key_id", "tenant_id", "key_id", "seq"),
)

# Where each trail ends, locked by who appends.
audit_heads = sa.Table(
    "audit_heads",
    metadata,
    sa.Column("tenant_id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("checkpoint_seq", sa.BigInteger, nullable=False, comment="Of the last checkpoint"),
    sa.Column("checkpoint_at", sa.TIMESTAMP(timezone=True), nullable=False),
    sa.Column("hash", sa.LargeBinary, nullable=False),
    # Rewritten with each batch, and none of it is in another index.
    postgresql_with={"fillfactor": "50"},
)

# What a trail was at some moment, signed.
audit_checkpoints = sa.Table(
    "audit_checkpoints",
    metadata,
    sa.Column("tenant_id", sa.BigInteger, nullable=False),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("at", sa.TIMESTAMP(timezone=True), nullable=False),
    sa.Column("hash", sa.LargeBinary, nullable=False),
    sa.Column("public_key", sa.LargeBinary, comment="Ed25519; null where the server has no key to sign with"),
    sa.Column("signature", sa.LargeBinary),
    sa.PrimaryKeyConstraint("tenant_id", "seq"),
)

# What lists, lineage and statistics ask of a response, written behind the hot path, from the outbox.
response_facts = sa.Table(
    "response_facts",
    metadata,
    sa.Column("tenant_id", sa.BigInteger, nullable=False),
    sa.Column("id", pg.UUID, nullable=False),
    sa.Column("previous_id", pg.UUID),
    sa.Column("root_id", pg.UUID, nullable=False, comment="First of its line, or its conversation"),
    sa.Column("conversation_id", pg.UUID),
    sa.Column("key_id", pg.UUID, comment="The key that it was created with"),
    sa.Column("input_tokens", sa.BigInteger, nullable=False),
    sa.Column("cached_tokens", sa.BigInteger, nullable=False),
    sa.Column("output_tokens", sa.BigInteger, nullable=False),
    sa.Column("reasoning_tokens", sa.BigInteger, nullable=False),
    sa.Column("cost_nanos", sa.BigInteger, comment="Billionths of a dollar; null is not known"),
    sa.Column("duration_ms", sa.BigInteger, comment="From its creation to its end"),
    sa.Column("depth", sa.Integer, nullable=False, comment="Turns before it"),
    sa.Column("status", sa.SmallInteger, nullable=False, comment="Below 2: not ended, its row knows more"),
    sa.Column("attempts", sa.SmallInteger, nullable=False),
    sa.Column("is_background", sa.Boolean, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.Column("user", sa.Text),
    sa.Column("safety_identifier", sa.Text),
    sa.Column("error_code", sa.Text),
    sa.PrimaryKeyConstraint("tenant_id", "id"),
    # One for each filter, in the order of the list.
    sa.Index("ix_response_facts__model", "tenant_id", "model", "id"),
    sa.Index("ix_response_facts__status", "tenant_id", "status", "id"),
    sa.Index("ix_response_facts__root_id", "tenant_id", "root_id", "id"),
    *(
        sa.Index(
            f"ix_response_facts__{name}",
            "tenant_id",
            name,
            "id",
            postgresql_where=sa.text(f'"{name}" is not null'),
        )
        for name in (
            "previous_id", "conversation_id", "user", "safety_identifier", "error_code",
        )
    ),
    sa.Index("ix_response_facts__background", "tenant_id", "id", postgresql_where=sa.text("is_background")),
    sa.Index("ix_response_facts__attempts", "tenant_id", "id", postgresql_where=sa.text("attempts > 1")),
)  # fmt: skip

# What a response may have several of: tools it called, pairs of its metadata.
response_terms = sa.Table(
    "response_terms",
    metadata,
    sa.Column("tenant_id", sa.BigInteger, nullable=False),
    sa.Column("id", pg.UUID, nullable=False),
    sa.Column("kind", sa.SmallInteger, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("value", sa.Text, nullable=False),
    sa.PrimaryKeyConstraint("tenant_id", "kind", "name", "value", "id"),
    # Serves forgetting a response.
    sa.Index("ix_response_terms__id", "tenant_id", "id"),
)

# The words of a response. Among them stand words that no text has, for its tenant's spans of time
# (`timed_words`): so the index finds one tenant's alone, and the newest first.
response_words = sa.Table(
    "response_words",
    metadata,
    sa.Column("tenant_id", sa.BigInteger, nullable=False),
    sa.Column("id", pg.UUID, nullable=False),
    sa.Column("words", pg.TSVECTOR, nullable=False),
    sa.PrimaryKeyConstraint("tenant_id", "id"),
    # What is not sorted in yet is read with every look into the index, of which a page may need thirty.
    sa.Index(
        "ix_response_words__words",
        "words",
        postgresql_using="gin",
        postgresql_with={"gin_pending_list_limit": "256"},
    ),
    # As of `responses`; and Postgres would try in vain to compress them.
    postgresql_with={"toast_tuple_target": "8160"},
)

# What a day's responses came to. Durations are counted in steps of a scale, for percentiles.
response_stats = sa.Table(
    "response_stats",
    metadata,
    sa.Column("tenant_id", sa.BigInteger, nullable=False),
    sa.Column("day", sa.Date, nullable=False, comment="UTC, of the response's creation"),
    sa.Column("status", sa.SmallInteger, nullable=False),
    sa.Column("duration_step", sa.SmallInteger, nullable=False),
    sa.Column("count", sa.BigInteger, nullable=False),
    sa.Column("input_tokens", sa.BigInteger, nullable=False),
    sa.Column("cached_tokens", sa.BigInteger, nullable=False),
    sa.Column("output_tokens", sa.BigInteger, nullable=False),
    sa.Column("reasoning_tokens", sa.BigInteger, nullable=False),
    sa.Column("cost_nanos", sa.BigInteger, nullable=False),
    sa.Column("model", sa.Text, nullable=False),
    sa.PrimaryKeyConstraint("tenant_id", "day", "model", "status", "duration_step"),
)

# Who is logged in at the page, by the hash of what their cookie holds.
ui_sessions = sa.Table(
    "ui_sessions",
    metadata,
    sa.Column("hash", sa.LargeBinary, primary_key=True),
    sa.Column("tenant_id", sa.BigInteger, nullable=False),
    sa.Column("key_id", pg.UUID, nullable=False),
    sa.Column("created_at", sa.TIMESTAMP(timezone=True), nullable=False, server_default=sa.func.now()),
    sa.Column("expires_at", sa.TIMESTAMP(timezone=True), nullable=False),
    # Serves pruning.
    sa.Index("ix_ui_sessions__expires_at", "expires_at"),
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
    "audit_outbox",
    "audit_records",
    "audit_heads",
    "audit_checkpoints",
    "response_facts",
    "response_terms",
    "response_words",
    "response_stats",
    *webhook_tables.NAMES,
    *prompt_tables.NAMES,
)
"""The tables whose rows belong to a tenant; each has a policy (docs/decisions/0019)."""
