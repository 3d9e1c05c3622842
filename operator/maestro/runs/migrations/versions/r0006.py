"""A restored store is noticed: former ids of it, and what workers say of Runs that it doesn't know"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0006"
down_revision = "r0005"
branch_labels = None
depends_on = None

_ADDED = (
    ("automation_id", sa.BigInteger()),
    ("first_at", sa.BigInteger()),
    ("said", sa.Text()),
    ("store", sa.Text()),
    ("epoch", sa.BigInteger()),
    ("pub", sa.BigInteger()),
)


def upgrade() -> None:
    for name, type_ in _ADDED:
        op.add_column("unknown_run", sa.Column(name, type_, nullable=True))
    op.create_index("unknown_run_automation", "unknown_run", ["automation_id", "at"])
    op.create_table(
        "former_store",
        sa.Column("id", sa.Text(), nullable=False),
        sa.Column("how", sa.Text(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=True),
        sa.Column("pub", sa.BigInteger(), nullable=True),
        sa.Column("run_id", sa.Uuid(), nullable=True),
        sa.Column("noticed_at", sa.BigInteger(), nullable=False),
        sa.Column("handled_at", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("id"),
    )


def downgrade() -> None:
    op.drop_table("former_store")
    op.drop_index("unknown_run_automation", "unknown_run")
    for name, _ in reversed(_ADDED):
        op.drop_column("unknown_run", name)
