"""The tables: made once by whoever comes first, the same as the code's, and not touched by an older Maestro."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext

from maestro.runs import migrate
from maestro.runs.database import Database
from maestro.runs.errors import StoreUnavailable
from maestro.runs.schema import metadata


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/store.db"
        return
    with request.getfixturevalue("postgres").database() as url:
        yield url


def test_migrations_make_what_the_code_expects(url: str) -> None:
    database = Database(url)
    migrate.upgrade(database)
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection)
        assert compare_metadata(context, metadata) == []
        names = {index["name"] for index in sa.inspect(connection).get_indexes("run")}
        assert names == {index.name for index in metadata.tables["run"].indexes}
    database.close()


def test_many_processes_that_start_at_once(url: str) -> None:
    code = "import sys; from maestro.runs.store import RunStore; RunStore.open(sys.argv[1])"
    with ThreadPoolExecutor(4) as pool:
        done = list(
            pool.map(
                lambda _: subprocess.run(
                    [sys.executable, "-c", code, url], capture_output=True, text=True, timeout=120
                ),
                range(4),
            )
        )
    assert [process.returncode for process in done] == [0] * 4, [process.stderr for process in done]


def test_tables_of_a_newer_version_are_left_alone(url: str) -> None:
    database = Database(url)
    migrate.upgrade(database)
    with database.engine.begin() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = 'r9999'"))
    with pytest.raises(StoreUnavailable, match="newer version"):
        migrate.upgrade(database)
    database.close()


def test_migrations_are_part_of_the_package() -> None:
    folder = Path(migrate.__file__).parent / "migrations"
    assert (folder / "env.py").is_file()
    assert (folder / "versions" / "r0001.py").is_file()
