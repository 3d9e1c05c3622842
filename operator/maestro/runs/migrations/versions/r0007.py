"""Notifications: up to where each Automation was looked at, and what is to be sent"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0007"
down_revision = "r0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "notify_mark",
        sa.Column("automation_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("since", sa.BigInteger(), nullable=False),
        sa.Column("failing", sa.SmallInteger(), nullable=False),
        sa.Column("letters", sa.BigInteger(), nullable=False),
        sa.Column("paused", sa.SmallInteger(), nullable=False),
        sa.PrimaryKeyConstraint("automation_id"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "notification",
        sa.Column(
            "pk", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), sa.Identity(always=False), nullable=False
        ),
        sa.Column("automation_id", sa.BigInteger(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("event", sa.Text(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), server_default="0", nullable=False),
        sa.Column("next_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("pk"),
    )
    op.create_index("notification_due", "notification", ["next_at"], unique=False)


def downgrade() -> None:
    op.drop_index("notification_due", table_name="notification")
    op.drop_table("notification")
    op.drop_table("notify_mark")
