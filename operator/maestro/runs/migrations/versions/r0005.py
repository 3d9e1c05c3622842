"""Replays: plans of Reprocessings, their items, what Runs depend on"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0005"
down_revision = "r0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("run_detail", sa.Column("reprocessing", sa.Text(), nullable=True))
    op.create_table(
        "replay",
        sa.Column(
            "pk", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), sa.Identity(always=False), nullable=False
        ),
        sa.Column("uid", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("solution", sa.Text(), nullable=False),
        sa.Column("spec_hash", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("planned_at", sa.BigInteger(), nullable=True),
        sa.Column("plan_hash", sa.Text(), nullable=True),
        sa.Column("digest", sa.Text(), server_default="0", nullable=False),
        sa.Column("total", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("predicted", sa.BigInteger(), nullable=True),
        sa.Column("approved_at", sa.BigInteger(), nullable=True),
        sa.Column("began_at", sa.BigInteger(), nullable=True),
        sa.Column("replaying_at", sa.BigInteger(), nullable=True),
        sa.Column("waived", sa.SmallInteger(), server_default="0", nullable=False),
        sa.Column("stop_reason", sa.Text(), nullable=True),
        sa.Column("stop_message", sa.Text(), nullable=True),
        sa.Column("stop_resume", sa.BigInteger(), nullable=True),
        sa.Column("succeeded", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("failed", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("added", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("allowed", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("message", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("pk"),
        sa.UniqueConstraint("uid"),
    )
    op.create_index("replay_by_id", "replay", ["id"], unique=False)
    op.create_index(
        "replay_open",
        "replay",
        ["solution"],
        unique=False,
        sqlite_where=sa.text("ended_at IS NULL"),
        postgresql_where=sa.text("ended_at IS NULL"),
    )
    op.create_table(
        "replay_item",
        sa.Column("replay", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("run_seq", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.SmallInteger(), nullable=False),
        sa.Column("new_seq", sa.BigInteger(), nullable=True),
        sa.Column("new_id", sa.Uuid(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("added", sa.SmallInteger(), server_default="0", nullable=False),
        sa.PrimaryKeyConstraint("replay", "at", "run_id"),
        sqlite_with_rowid=False,
    )
    for name, columns, where in (
        ("replay_item_waiting", ["replay", "at", "run_id"], "state = 0"),
        ("replay_item_flight", ["replay", "new_seq"], "state = 1"),
    ):
        op.create_index(
            name, "replay_item", columns, unique=False, sqlite_where=sa.text(where), postgresql_where=sa.text(where)
        )
    op.create_index("replay_item_run", "replay_item", ["run_seq"], unique=False)
    op.create_table(
        "replay_read",
        sa.Column("replay", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("key", sa.Uuid(), nullable=False),
        sa.Column("at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("run_id", sa.Uuid(), nullable=False),
        sa.Column("run_seq", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("replay", "key", "at", "run_id"),
        sqlite_with_rowid=False,
    )


def downgrade() -> None:
    op.drop_table("replay_read")
    op.drop_table("replay_item")
    op.drop_table("replay")
    op.drop_column("run_detail", "reprocessing")
