"""The process: environment, command line, exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from maestro_worker import UsageError
from maestro_worker.__main__ import load
from maestro_worker.environment import Environment
from maestro_worker.main import exit_code
from maestro_worker.outcome import Outcome

MODULE = """
from maestro_worker import worker

@worker(concurrency=3)
def thumbnail(run, url: str, width: int = 320):
    return url

plain = 1
"""
QUEUE = {
    "MAESTRO_API_URL": "http://maestro:8080/",
    "MAESTRO_QUEUE": "maestro.media.thumbnail",
    "MAESTRO_BROKER_URL": "amqp://u:hunter2@rabbit/%2F",
    "MAESTRO_WORKER_API_KEY": "hunter2",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pictures.py").write_text(MODULE)
    return tmp_path


def command(folder: Path, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("MAESTRO_")}
    argv = [sys.executable, "-m", "maestro_worker", *words]
    return subprocess.run(
        argv, cwd=folder, env=clean | environ, capture_output=True, text=True, timeout=30, check=False
    )


def test_the_schema_is_printed(folder: Path) -> None:
    done = command(folder, "schema", "pictures:thumbnail")
    assert done.returncode == 0
    assert json.loads(done.stdout)["properties"]["width"] == {"default": 320, "type": "integer"}


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["pictures:thumbnail"], "set MAESTRO_QUEUE"),
        (["schema", "pictures:nothing"], "no function 'nothing'"),
        (["schema", "pictures:plain"], "no function 'plain' decorated"),
        (["schema", "nowhere:thumbnail"], "no module 'nowhere'"),
        (["schema", "pictures"], "module:function"),
        (["a:b", "c:d"], "one worker"),
    ],
)
def test_usage_errors_exit_with_2_and_say_what_is_wrong(folder: Path, words: list[str], says: str) -> None:
    done = command(folder, *words)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_module_that_fails_to_import_shows_why(folder: Path) -> None:
    (folder / "broken.py").write_text("import does_not_exist")
    done = command(folder, "schema", "broken:thumbnail")
    assert done.returncode == 1
    assert "does_not_exist" in done.stderr


def test_workers_are_loaded_by_name(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    worker = load("pictures:thumbnail")
    assert (worker.name, worker.concurrency) == ("thumbnail", 3)
    del sys.modules["pictures"]


def test_the_environment_of_a_queue_worker() -> None:
    environment = Environment.read(
        QUEUE | {"MAESTRO_CONCURRENCY": "7", "MAESTRO_POD_UID": "pod", "MAESTRO_DRAIN_TIMEOUT": "2.5"}
    )
    assert environment.api_url == "http://maestro:8080"
    assert (environment.concurrency, environment.drain_timeout) == (7, 2.5)
    assert environment.credentials() == {"X-Worker-API-Key": "hunter2"}
    first, second = environment.new_identity(), environment.new_identity()
    assert first.startswith("pod/")
    assert first != second
    assert "hunter2" not in repr(environment)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"MAESTRO_QUEUE": ""}, "MAESTRO_QUEUE"),
        ({"MAESTRO_API_URL": ""}, "MAESTRO_API_URL is not set"),
        ({"MAESTRO_BROKER_URL": ""}, "MAESTRO_BROKER_URL_FILE"),
        ({"MAESTRO_WORKER_API_KEY": ""}, "MAESTRO_TOKEN_FILE"),
        ({"MAESTRO_TOKEN_FILE": "/nowhere/token"}, "can't be read"),
        ({"MAESTRO_CONCURRENCY": "0"}, "MAESTRO_CONCURRENCY is a whole number"),
        ({"MAESTRO_CONCURRENCY": "many"}, "MAESTRO_CONCURRENCY is a whole number"),
        ({"MAESTRO_DRAIN_TIMEOUT": "nan"}, "MAESTRO_DRAIN_TIMEOUT is a number"),
        ({"MAESTRO_DRAIN_TIMEOUT": "-1"}, "MAESTRO_DRAIN_TIMEOUT is a number"),
    ],
)
def test_a_wrong_environment_is_refused_by_name(change: dict[str, str], says: str) -> None:
    with pytest.raises(UsageError, match=says) as caught:
        Environment.read(QUEUE | change)
    assert "hunter2" not in str(caught.value)


def test_token_and_broker_url_are_read_anew_each_time(tmp_path: Path) -> None:
    token, url = tmp_path / "token", tmp_path / "url"
    token.write_text("first\n")
    url.write_text("amqp://first\n")
    files = {"MAESTRO_TOKEN_FILE": str(token), "MAESTRO_BROKER_URL_FILE": str(url)}
    environment = Environment.read(QUEUE | files)
    assert environment.credentials() == {"Authorization": "Bearer first"}
    assert environment.broker() == "amqp://first"
    token.write_text("second")
    url.write_text("amqp://second")
    assert environment.credentials() == {"Authorization": "Bearer second"}
    assert environment.broker() == "amqp://second"
    url.unlink()
    assert environment.broker() == QUEUE["MAESTRO_BROKER_URL"]


def test_a_job_needs_no_broker() -> None:
    environment = Environment.read(
        {"MAESTRO_RUN_ID": "r", "MAESTRO_API_URL": "http://m", "MAESTRO_WORKER_API_KEY": "k"}
    )
    assert environment.run_id == "r"


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (Outcome("completed"), 0),
        (Outcome("completed_no_invoices"), 0),
        (Outcome("failed", kind="technical"), 1),
        (Outcome("failed", kind="business"), 3),
        (Outcome("canceled"), 4),
        ("ended", 0),
        ("running", 1),
        ("released", 1),
    ],
)
def test_exit_codes(end: Outcome | str, code: int) -> None:
    assert exit_code(end) == code
