"""Dead letters as records: their identity, what became of them, their counts"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0002"
down_revision = "r0001"
branch_labels = None
depends_on = None

_NEW = (
    *("identity", "twin", "store", "message_id", "content_type", "size", "died_at"),
    *("redriven_at", "redriven_as", "redriven_by"),
)


def upgrade() -> None:
    # The columns that must have a value get one by default: SQLite adds none without, whether there are rows or not.
    for column in (
        sa.Column("identity", sa.Text(), nullable=False, server_default=""),
        sa.Column("twin", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("store", sa.Text(), nullable=True),
        sa.Column("message_id", sa.Text(), nullable=True),
        sa.Column("content_type", sa.Text(), nullable=True),
        sa.Column("size", sa.BigInteger(), nullable=False, server_default="0"),
        sa.Column("died_at", sa.BigInteger(), nullable=True),
        sa.Column("redriven_at", sa.BigInteger(), nullable=True),
        sa.Column("redriven_as", sa.Uuid(), nullable=True),
        sa.Column("redriven_by", sa.Text(), nullable=True),
    ):
        op.add_column("dead_letter", column)
    op.execute("UPDATE dead_letter SET identity = 'r0001-' || seq, size = length(body)")
    op.create_index("dead_letter_identity", "dead_letter", ["identity", "twin"], unique=True)
    op.create_index(
        "dead_letter_run",
        "dead_letter",
        ["run_id", "seq"],
        unique=False,
        sqlite_where=sa.text("run_id IS NOT NULL"),
        postgresql_where=sa.text("run_id IS NOT NULL"),
    )
    op.create_table(
        "dead_letter_count",
        sa.Column("automation_id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("n", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("automation_id"),
        sqlite_with_rowid=False,
    )
    op.execute(
        "INSERT INTO dead_letter_count (automation_id, n) "
        "SELECT coalesce(automation_id, 0), count(*) FROM dead_letter GROUP BY coalesce(automation_id, 0)"
    )


def downgrade() -> None:
    op.drop_table("dead_letter_count")
    op.drop_index("dead_letter_run", table_name="dead_letter")
    op.drop_index("dead_letter_identity", table_name="dead_letter")
    for name in _NEW:
        op.drop_column("dead_letter", name)
