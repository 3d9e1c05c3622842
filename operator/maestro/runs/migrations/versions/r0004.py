"""Runs that were lost together run alone next"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "r0004"
down_revision = "r0003"
branch_labels = None
depends_on = None

_THOSE = sa.text("alone = 1 AND state IN (2, 3)")


def upgrade() -> None:
    op.add_column("run", sa.Column("alone", sa.SmallInteger(), nullable=False, server_default="0"))
    op.create_index("run_alone", "run", ["automation_id"], sqlite_where=_THOSE, postgresql_where=_THOSE)


def downgrade() -> None:
    op.drop_index("run_alone", "run")
    op.drop_column("run", "alone")
