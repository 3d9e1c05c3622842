"""The harness' own promises: locks, interrupted builds, pid reuse, cache keys, full disks."""

from __future__ import annotations

import dataclasses
import errno
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from tests.cluster import binaries, images, instances, leftovers, pki, rootfs
from tests.cluster.binaries import Module, Program
from tests.cluster.errors import ClusterError, CommandError, DiskFullError, UnsupportedError
from tests.cluster.locks import Lock, held
from tests.cluster.process import Daemon, Identity, check_disk, disk_full_named, run, wait_for


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "maestro-cluster"


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Module:
    """A module whose compiler is a script that writes its target in two steps and waits in between."""
    source = tmp_path / "source" / "go" / "fake"
    source.mkdir(parents=True)
    (source / "go.mod").write_text("module fake")
    monkeypatch.setattr("tests.cluster.paths.HERE", tmp_path / "source")
    go = tmp_path / "go"
    go.write_text(
        "#!/bin/sh\n"
        'for word; do [ "$before" = -o ] && target=$word; before=$word; done\n'
        f"echo half > $target; echo run >> {tmp_path}/runs\n"
        f"while [ -e {tmp_path}/hold ]; do sleep 0.02; done\n"
        "echo whole > $target\n"
    )
    go.chmod(0o755)
    monkeypatch.setattr(binaries, "_go", lambda: go)
    made = Module("fake", "1", {"tool": Program("fake/tool", 1)}, {})
    monkeypatch.setattr(binaries, "MODULES", (made,))
    return made


# -- processes ---------------------------------------------------------------------------------------------------------


def test_a_reused_pid_is_not_the_process_of_the_pid_file(tmp_path: Path) -> None:
    daemon = Daemon("sleeper", ["sleep", "60"], tmp_path)
    daemon.start()
    real = daemon.identity
    assert real is not None
    assert daemon.alive()
    # The same pid with another start time: what a pid file of an earlier boot looks like when the pid was given anew.
    dataclasses.replace(real, start_ticks=real.start_ticks - 1).save(daemon.pid_file)

    assert not daemon.alive()
    daemon.stop()
    assert real.alive(), "stop() must not touch a process that isn't the daemon"

    real.end()
    assert not real.alive()


def test_another_process_can_stop_a_daemon(tmp_path: Path) -> None:
    Daemon("sleeper", ["sleep", "60"], tmp_path).start()
    again = Daemon("sleeper", ["sleep", "60"], tmp_path)
    identity = again.identity

    again.stop()

    assert identity is not None
    assert not identity.alive()
    assert not again.pid_file.exists()


def test_a_daemon_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    stubborn = Daemon("stubborn", [sys.executable, "-c", STUBBORN], tmp_path)
    stubborn.start()
    wait_for("it ignores SIGTERM", lambda: "ready" in stubborn.log.read_text(), timeout=20, needs=[stubborn])

    stubborn.stop(patience=0.2)

    assert not stubborn.alive()


STUBBORN = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"
)


def test_a_wait_ends_when_the_program_does_and_shows_its_log(tmp_path: Path) -> None:
    broken = Daemon("broken", ["sh", "-c", "echo no such file; sleep 0.2; exit 3"], tmp_path)
    broken.start()

    with pytest.raises(ClusterError, match=r"broken ended(.|\n)*no such file"):
        wait_for("broken answers", lambda: False, timeout=30, needs=[broken])


def test_servers_of_a_killed_session_are_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    script = (
        "import os, signal; from tests.cluster import instances; from tests.cluster.process import Daemon\n"
        "folder = instances.make('orphan'); Daemon('sleeper', ['sleep', '60'], folder).start()\n"
        "print(folder, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    folder = Path(done.stdout.strip())
    sleeper = Identity.load(folder / "sleeper.pid")
    assert sleeper is not None
    assert sleeper.alive()
    mine = instances.make("mine")

    assert not folder.exists()
    assert not sleeper.alive()
    assert mine.exists()
    instances.sweep()
    assert mine.exists(), "servers of a living session stay"


# -- locks and builds --------------------------------------------------------------------------------------------------


def test_a_lock_dies_with_its_holder(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    script = (
        "import os, signal, sys; from pathlib import Path; from tests.cluster.locks import Lock\n"
        "lock = Lock(Path(sys.argv[1])); assert lock.try_acquire(); lock.note('building etcd')\n"
        "print('held', flush=True); signal.pause()"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(file)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        mine = Lock(file)
        assert not mine.try_acquire()
        assert f"process {holder.pid}: building etcd" in mine.holder()
        holder.send_signal(signal.SIGKILL)
        holder.wait()

    assert mine.try_acquire()
    mine.release()


def test_who_waits_for_a_lock_goes_on_as_soon_as_there_is_enough(tmp_path: Path) -> None:
    with held(tmp_path / "lock", "first"), held(tmp_path / "lock", "second", enough=lambda: True) as lock:
        assert lock is None


@pytest.mark.usefixtures("cache")
def test_two_builds_at_the_same_time_compile_once(module: Module, tmp_path: Path) -> None:
    (tmp_path / "hold").touch()
    found: list[Path] = []
    builders = [threading.Thread(target=lambda: found.append(binaries.find("tool"))) for _ in range(2)]
    for builder in builders:
        builder.start()
    wait_for("the compiler runs", (tmp_path / "runs").exists, timeout=20)
    (tmp_path / "hold").unlink()
    for builder in builders:
        builder.join()

    assert found == [module.folder() / "tool"] * 2
    assert (tmp_path / "runs").read_text().split() == ["run"]


@pytest.mark.usefixtures("cache")
def test_an_interrupted_build_leaves_nothing_that_counts_as_built(module: Module, tmp_path: Path) -> None:
    (tmp_path / "hold").touch()
    child = os.fork()
    if not child:
        # The build that is killed half-way, its compiler with it.
        os.setsid()
        binaries.find("tool")
        os._exit(0)
    wait_for("the compiler runs", (tmp_path / "runs").exists, timeout=20)
    wait_for("half of it is written", lambda: [*module.folder().glob(".tool.*.partial")], timeout=20)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert not (module.folder() / "tool").exists()

    (tmp_path / "hold").unlink()

    assert binaries.find("tool").read_text() == "whole\n"
    assert not [*module.folder().glob(".tool.*.partial")]


@pytest.mark.usefixtures("cache")
def test_other_sources_versions_or_flags_have_another_folder(module: Module) -> None:
    keys = {
        module.key,
        dataclasses.replace(module, version="2").key,
        dataclasses.replace(module, stamps={"a.b": "c"}).key,
    }
    (module.source / "go.mod").write_text("module fake // changed")
    keys.add(module.key)

    assert len(keys) == 4


def test_given_binaries_come_before_built_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: Module) -> None:
    monkeypatch.setattr(
        binaries,
        "MODULES",
        (dataclasses.replace(module, programs={"etcd": Program("x", 1), "kubectl": Program("x", 1)}),),
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "etcd").touch()
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path / "assets"))

    assert binaries.find("etcd") == tmp_path / "assets" / "etcd"
    assert binaries.find("kubectl").is_relative_to(tmp_path / "maestro-cluster")


# -- full disks --------------------------------------------------------------------------------------------------------


def test_a_full_disk_is_named(tmp_path: Path) -> None:
    with pytest.raises(DiskFullError, match=f"the disk that holds {tmp_path} is full.*needed"):
        check_disk(tmp_path, 2**60)
    with pytest.raises(DiskFullError, match=str(tmp_path)), disk_full_named(tmp_path):
        raise OSError(errno.ENOSPC, "No space left on device")
    with pytest.raises(DiskFullError, match=str(tmp_path)):
        run(["sh", "-c", "echo write: No space left on device >&2; exit 1"], writes=tmp_path)
    with pytest.raises(CommandError, match="ended with 4"):
        run(["sh", "-c", "exit 4"], writes=tmp_path)


# -- images ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "qualified"),
    [
        ("rabbitmq:4.0-management", "docker.io/library/rabbitmq:4.0-management"),
        ("worker", "docker.io/library/worker:latest"),
        ("team/worker:1", "docker.io/team/worker:1"),
        ("ghcr.io/team/worker:1", "ghcr.io/team/worker:1"),
        ("localhost/worker", "localhost/worker:latest"),
        ("registry:5000/worker", "registry:5000/worker:latest"),
    ],
)
def test_references_are_those_of_the_node(given: str, qualified: str) -> None:
    assert images.qualified(given) == qualified


def test_an_image_is_made_anew_only_when_something_that_it_copies_has_changed(tmp_path: Path) -> None:
    (tmp_path / "app" / "__pycache__").mkdir(parents=True)
    (tmp_path / "Dockerfile").write_text("ARG BASE_IMAGE\nFROM $BASE_IMAGE\nCOPY app \\\n  requirements*.txt /app/\n")
    (tmp_path / ".dockerignore").write_text("*\n!app\n!requirements.txt\n**/__pycache__\n")
    (tmp_path / "app" / "main.py").write_text("1")
    (tmp_path / "requirements.txt").write_text("1")

    def digest() -> str:
        return images.recipe_of(str(tmp_path)).digest

    first = digest()
    (tmp_path / "README.md").write_text("not copied")
    (tmp_path / "app" / "__pycache__" / "main.pyc").write_text("ignored")
    assert digest() == first
    (tmp_path / "requirements.txt").write_text("2")
    second = digest()
    assert second != first
    (tmp_path / "app" / "main.py").write_text("2")
    third = digest()
    assert third not in (first, second)
    (tmp_path / "Dockerfile").write_text("ARG BASE_IMAGE\nFROM $BASE_IMAGE\nCOPY app /app/\n")
    assert digest() != third


def test_other_packages_make_another_root_file_system() -> None:
    assert rootfs.RABBITMQ.key != dataclasses.replace(rootfs.RABBITMQ, include=("rabbitmq-server", "procps")).key


def test_an_unknown_image_says_what_there_is() -> None:
    with pytest.raises(ClusterError, match=r"no image 'nonsense'.*maestro.*folder with a Dockerfile"):
        images.build("nonsense")


# -- backends ----------------------------------------------------------------------------------------------------------


def test_an_existing_cluster_needs_a_kubeconfig(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.cluster import backends

    monkeypatch.setenv("MAESTRO_CLUSTER_BACKEND", "existing")
    monkeypatch.delenv("KUBECONFIG", raising=False)
    with pytest.raises(UnsupportedError, match="needs KUBECONFIG"):
        backends.choose()


def test_an_unknown_backend_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.cluster import backends

    monkeypatch.setenv("MAESTRO_CLUSTER_BACKEND", "minikube")
    with pytest.raises(UnsupportedError, match="no backend 'minikube'"):
        backends.choose()


# -- certificates and the machine --------------------------------------------------------------------------------------


def test_certificates_are_signed_once_and_by_their_authority(tmp_path: Path) -> None:
    authority = pki.Authority(tmp_path)
    authority.make()
    pair = authority.client("bob", "bob", ["team"])
    before = pair.certificate.read_bytes()

    authority.make()

    assert authority.client("bob", "bob", ["team"]).certificate.read_bytes() == before
    assert "OK" in run(["openssl", "verify", "-CAfile", authority.pair.certificate, pair.certificate])
    assert "O = team, CN = bob" in run(["openssl", "x509", "-noout", "-subject", "-in", pair.certificate])
    config = authority.kubeconfig(tmp_path / "config", "https://127.0.0.1:1", pair)
    assert config.stat().st_mode & 0o077 == 0


def test_mounts_below_a_folder_are_found_deepest_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [
        f"1 0 0:1 / {point} rw - tmpfs tmpfs rw"
        for point in ("/s/cluster", "/s/cluster/a", "/s/cluster/a/b\\040c", "/s/cluster-other/x")
    ]
    (tmp_path / "mountinfo").write_text("\n".join(lines))
    monkeypatch.setattr(leftovers, "MOUNTS", tmp_path / "mountinfo")

    assert leftovers.mounts(Path("/s/cluster")) == ["/s/cluster/a/b c", "/s/cluster/a"]
