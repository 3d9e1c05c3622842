"""The first form of the store"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "attempt",
        sa.Column("run_seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("attempt", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("holder", sa.Text(), nullable=True),
        sa.Column("started_at", sa.BigInteger(), nullable=True),
        sa.Column("ended_at", sa.BigInteger(), nullable=False),
        sa.Column("outcome", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("message", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("run_seq", "attempt"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "automation",
        sa.Column(
            "pk", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), sa.Identity(always=False), nullable=False
        ),
        sa.Column("uid", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("solution_id", sa.BigInteger(), nullable=False),
        sa.Column("generation", sa.BigInteger(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("failures", sa.Integer(), server_default="0", nullable=False),
        sa.Column("deleted_at", sa.BigInteger(), nullable=True),
        sa.Column("reaped_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("pk"),
        sa.UniqueConstraint("uid"),
    )
    op.create_index("automation_by_id", "automation", ["id"], unique=False)
    op.create_table(
        "dead_letter",
        sa.Column(
            "seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), sa.Identity(always=False), nullable=False
        ),
        sa.Column("automation_id", sa.BigInteger(), nullable=True),
        sa.Column("run_id", sa.Uuid(), nullable=True),
        sa.Column("queue", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("pub", sa.BigInteger(), nullable=True),
        sa.Column("headers", sa.Text(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("seq"),
    )
    op.create_index("dead_letter_automation", "dead_letter", ["automation_id", "seq"], unique=False)
    op.create_table(
        "fairness",
        sa.Column("automation_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("priority", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("turn", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("automation_id", "priority", "key"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "idempotency",
        sa.Column("automation_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("body_hash", sa.LargeBinary(), nullable=True),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("automation_id", "key"),
        sqlite_with_rowid=False,
    )
    op.create_index("idempotency_expires", "idempotency", ["expires_at"], unique=False)
    op.create_table(
        "leader",
        sa.Column("id", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("next_pub", sa.BigInteger(), nullable=False),
        sa.Column("confirmed_pub", sa.BigInteger(), nullable=False),
        sa.Column("store_id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "log",
        sa.Column("run_seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("n", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("level", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), nullable=False),
        sa.Column("actionable", sa.SmallInteger(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("run_seq", "n"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "progress",
        sa.Column("run_seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("done", sa.Float(precision=53), nullable=True),
        sa.Column("total", sa.Float(precision=53), nullable=True),
        sa.Column("text", sa.Text(), nullable=True),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("run_seq"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "run",
        sa.Column(
            "seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), sa.Identity(always=False), nullable=False
        ),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("automation_id", sa.BigInteger(), nullable=False),
        sa.Column("solution_id", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.SmallInteger(), nullable=False),
        sa.Column("ready", sa.SmallInteger(), nullable=False),
        sa.Column("rank", sa.BigInteger(), nullable=False),
        sa.Column("ckey", sa.Uuid(), nullable=True),
        sa.Column("slot", sa.Integer(), nullable=True),
        sa.Column("pub", sa.BigInteger(), nullable=True),
        sa.Column("epoch", sa.BigInteger(), nullable=True),
        sa.Column("returns", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("attempt", sa.Integer(), server_default="0", nullable=False),
        sa.Column("max_attempts", sa.Integer(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=True),
        sa.Column("holder_pub", sa.BigInteger(), nullable=True),
        sa.Column("alarm_at", sa.BigInteger(), nullable=True),
        sa.Column("due_at", sa.BigInteger(), nullable=True),
        sa.Column("lease_at", sa.BigInteger(), nullable=True),
        sa.Column("deadline_at", sa.BigInteger(), nullable=True),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("heartbeat_at", sa.BigInteger(), nullable=True),
        sa.Column("cancel_at", sa.BigInteger(), nullable=True),
        sa.Column("cancel_why", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("end_report", sa.Text(), nullable=True),
        sa.Column("copy_of", sa.Uuid(), nullable=True),
        sa.Column("replay_of", sa.Uuid(), nullable=True),
        sa.Column("log_lines", sa.Integer(), server_default="0", nullable=False),
        sa.Column("accepted_at", sa.BigInteger(), nullable=False),
        sa.Column("queued_at", sa.BigInteger(), nullable=True),
        sa.Column("started_at", sa.BigInteger(), nullable=True),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.Column("parameters", sa.Text(), nullable=False),
        sa.Column("result", sa.Text(), nullable=True),
        sa.Column("error_class", sa.Text(), nullable=True),
        sa.Column("message", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("seq"),
    )
    op.create_index(
        "run_alarm",
        "run",
        ["alarm_at"],
        unique=False,
        sqlite_where=sa.text("alarm_at IS NOT NULL"),
        postgresql_where=sa.text("alarm_at IS NOT NULL"),
    )
    op.create_index("run_automation", "run", ["automation_id", "seq"], unique=False)
    op.create_index(
        "run_ended",
        "run",
        ["automation_id", "state", "seq"],
        unique=False,
        sqlite_where=sa.text("state >= 5"),
        postgresql_where=sa.text("state >= 5"),
    )
    op.create_index(
        "run_held",
        "run",
        ["solution_id", "seq"],
        unique=False,
        sqlite_where=sa.text("state = 0"),
        postgresql_where=sa.text("state = 0"),
    )
    op.create_index(
        "run_holder",
        "run",
        ["automation_id", "holder"],
        unique=False,
        sqlite_where=sa.text("state = 3"),
        postgresql_where=sa.text("state = 3"),
    )
    op.create_index("run_id", "run", ["id"], unique=True)
    op.create_index(
        "run_key_flight",
        "run",
        ["automation_id", "ckey"],
        unique=True,
        sqlite_where=sa.text("ckey IS NOT NULL AND state IN (2, 3, 4)"),
        postgresql_where=sa.text("ckey IS NOT NULL AND state IN (2, 3, 4)"),
    )
    op.create_index(
        "run_key_waiting",
        "run",
        ["automation_id", "ckey", "seq"],
        unique=False,
        sqlite_where=sa.text("ckey IS NOT NULL AND state IN (0, 1)"),
        postgresql_where=sa.text("ckey IS NOT NULL AND state IN (0, 1)"),
    )
    op.create_index(
        "run_parked",
        "run",
        ["automation_id", "seq"],
        unique=False,
        sqlite_where=sa.text("ready = 0 AND state IN (1, 4)"),
        postgresql_where=sa.text("ready = 0 AND state IN (1, 4)"),
    )
    op.create_index(
        "run_queued",
        "run",
        ["automation_id", "pub"],
        unique=False,
        sqlite_where=sa.text("state = 2"),
        postgresql_where=sa.text("state = 2"),
    )
    op.create_index(
        "run_ready",
        "run",
        ["automation_id", "rank", "seq"],
        unique=False,
        sqlite_where=sa.text("state = 1 AND ready = 1"),
        postgresql_where=sa.text("state = 1 AND ready = 1"),
    )
    op.create_index(
        "run_slot",
        "run",
        ["automation_id", "slot"],
        unique=True,
        sqlite_where=sa.text("slot IS NOT NULL"),
        postgresql_where=sa.text("slot IS NOT NULL"),
    )
    op.create_table(
        "run_count",
        sa.Column("automation_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("state", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("writer", sa.Text(), nullable=False),
        sa.Column("n", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("automation_id", "state", "writer"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "run_detail",
        sa.Column("run_seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=False, nullable=False),
        sa.Column("automation_id", sa.BigInteger(), nullable=False),
        sa.Column("user_name", sa.Text(), nullable=True),
        sa.Column("reference", sa.Text(), nullable=True),
        sa.Column("schedule", sa.Text(), nullable=True),
        sa.Column("tick", sa.BigInteger(), nullable=True),
        sa.Column("priority", sa.Integer(), server_default="0", nullable=False),
        sa.Column("fairness_key", sa.Text(), nullable=True),
        sa.Column("labels", sa.Text(), nullable=True),
        sa.Column("notify", sa.Text(), nullable=True),
        sa.Column("traceparent", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("run_seq"),
    )
    op.create_index(
        "run_detail_reference",
        "run_detail",
        ["reference", "run_seq"],
        unique=False,
        sqlite_where=sa.text("reference IS NOT NULL"),
        postgresql_where=sa.text("reference IS NOT NULL"),
    )
    op.create_index(
        "run_detail_user",
        "run_detail",
        ["user_name", "run_seq"],
        unique=False,
        sqlite_where=sa.text("user_name IS NOT NULL"),
        postgresql_where=sa.text("user_name IS NOT NULL"),
    )
    op.create_table(
        "run_key",
        sa.Column("automation_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("ckey", sa.Uuid(), nullable=False),
        sa.Column("n", sa.Integer(), nullable=False),
        sa.Column("blocked_by", sa.Uuid(), nullable=True),
        sa.PrimaryKeyConstraint("automation_id", "ckey"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "run_started",
        sa.Column("automation_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("writer", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("pub", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("automation_id", "writer"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "run_tally",
        sa.Column("automation_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("bucket", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("state", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("writer", sa.Text(), nullable=False),
        sa.Column("n", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("automation_id", "bucket", "state", "writer"),
        sqlite_with_rowid=False,
    )
    op.create_index("run_tally_bucket", "run_tally", ["bucket"], unique=False)
    op.create_table(
        "solution",
        sa.Column(
            "pk", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), sa.Identity(always=False), nullable=False
        ),
        sa.Column("id", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("pk"),
        sa.UniqueConstraint("id"),
    )
    op.create_table(
        "unknown_run",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("op", sa.Text(), nullable=False),
        sa.Column("worker", sa.Text(), nullable=True),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )


def downgrade() -> None:
    raise NotImplementedError("the store only goes forward: restore a backup instead")
