"""Schedules: the tick ledger, and Runs that are launched as Jobs whatever their Automation's way is"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0003"
down_revision = "r0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "schedule",
        sa.Column("uid", sa.Text(), nullable=False),
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("cursor", sa.BigInteger(), nullable=False),
        sa.Column("timetable", sa.Text(), nullable=False),
        sa.Column("started", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("skipped", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("missed", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("last_tick", sa.BigInteger(), nullable=True),
        sa.Column("last_success_at", sa.BigInteger(), nullable=True),
        sa.Column("last_end", sa.Text(), nullable=True),
        sa.Column("last_end_at", sa.BigInteger(), nullable=True),
        sa.Column("run_now", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("uid"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "tick",
        sa.Column("schedule_uid", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("mark", sa.Text(), nullable=False),
        sa.Column("outcome", sa.SmallInteger(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("run_id", sa.Uuid(), nullable=True),
        sa.Column("open", sa.SmallInteger(), nullable=False),
        sa.Column("job", sa.Text(), nullable=True),
        sa.Column("late", sa.BigInteger(), nullable=False),
        sa.Column("recorded_at", sa.BigInteger(), nullable=False),
        sa.Column("ended", sa.Text(), nullable=True),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.Column("user_name", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("schedule_uid", "at", "mark"),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "tick_open",
        "tick",
        ["schedule_uid", "at"],
        unique=False,
        sqlite_where=sa.text("open = 1"),
        postgresql_where=sa.text("open = 1"),
    )
    op.add_column("run_detail", sa.Column("job", sa.Text(), nullable=True))


def downgrade() -> None:
    op.drop_column("run_detail", "job")
    op.drop_table("tick")
    op.drop_table("schedule")
