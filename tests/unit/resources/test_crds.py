"""Rendering of the CustomResourceDefinitions: what each must have, and that the committed files are current."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from maestro.resources import crds
from maestro.resources.kinds import DEFINITIONS, Definition

REPOSITORY = Path(__file__).resolve().parents[3]
KINDS = pytest.mark.parametrize("kind", DEFINITIONS, ids=lambda kind: kind.kind)


def _nodes(schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, node in schema.get("properties", {}).items():
        yield from _nodes(node, f"{path}.{name}")
    for word in ("items", "additionalProperties"):
        if isinstance(schema.get(word), dict):
            yield from _nodes(schema[word], f"{path}[]")


def _all(kind: Definition) -> list[tuple[str, dict[str, Any]]]:
    return list(_nodes(crds.object_schema(kind), kind.singular))


def test_committed_files_are_current(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(REPOSITORY)
    assert crds.main(["--check"]) == 0


def test_check_names_the_file_that_differs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    docs = tmp_path / "resources.md"
    arguments = ["--output", str(tmp_path / "crds"), "--docs", str(docs)]
    assert crds.main(["--check", *arguments]) == 1
    assert "automations.yaml: is missing" in capsys.readouterr().err
    assert crds.main(arguments) == 0
    assert crds.main(["--check", *arguments]) == 0

    automations = tmp_path / "crds" / "automations.yaml"
    automations.write_text(automations.read_text().replace("default: 4h", "default: 5h"))
    (tmp_path / "crds" / "robots.yaml").write_text("{}")
    docs.write_text(docs.read_text() + "more")
    assert crds.main(["--check", *arguments]) == 1
    complaints = capsys.readouterr().err
    assert "automations.yaml: differs from the models" in complaints
    assert "robots.yaml: no model renders it" in complaints
    assert "resources.md: differs from the models" in complaints
    assert "schedules.yaml" not in complaints


def test_output_alone_writes_no_docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert crds.main(["--output", "out"]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "automations.yaml",
        "reprocessings.yaml",
        "schedules.yaml",
    ]
    assert not (tmp_path / "docs").exists()


def test_files_say_what_they_are() -> None:
    for text in crds.render().values():
        assert text.startswith("# Generated")
        assert "do not edit" in text.splitlines()[0]
        document = yaml.safe_load(text)
        assert document["metadata"]["labels"]["app.kubernetes.io/part-of"] == "maestro"
        assert document["spec"]["names"]["categories"] == ["maestro"]
        assert "&" not in {line.split()[-1][0] for line in text.splitlines() if line.split()}, "no YAML anchors"


@KINDS
def test_every_field_is_described_in_sentences(kind: Definition) -> None:
    own = ("apiVersion", "kind", "metadata")
    for path, node in _all(kind):
        if path.endswith("[]") or path == f"{kind.singular}.metadata":
            continue
        assert path.split(".")[-1] in own or node.get("description", "").endswith("."), path


@KINDS
def test_every_text_list_and_map_is_bounded(kind: Definition) -> None:
    for path, node in _all(kind):
        if path.count(".") == 1 and path.split(".")[1] in ("apiVersion", "kind", "metadata"):
            continue
        if node.get("type") == "string" and node.get("format") not in ("date", "date-time"):
            assert "maxLength" in node or "enum" in node, path
        if node.get("type") == "array":
            assert "maxItems" in node, path
            assert node.get("x-kubernetes-list-type") in ("atomic", "set", "map"), path
        if "additionalProperties" in node:
            assert "maxProperties" in node, path


@KINDS
def test_nothing_that_structural_schemas_may_not_have(kind: Definition) -> None:
    for path, node in _all(kind):
        assert not {"$ref", "oneOf", "allOf", "not", "title", "const", "$defs"} & set(node), path
        assert "anyOf" not in node or node["x-kubernetes-int-or-string"], path
        assert "type" in node or node.get("x-kubernetes-int-or-string"), path
        assert not path.endswith(".on"), path
        assert node.get("default", ...) is not None, path


@KINDS
def test_every_duration_is_held_to_a_second(kind: Definition) -> None:
    durations = [(path, node) for path, node in _all(kind) if "(ms|s|m|h)" in node.get("pattern", "")]
    assert durations
    for path, node in durations:
        assert "duration(self) >= duration('1s')" in [rule["rule"] for rule in node["x-kubernetes-validations"]], path


@KINDS
def test_every_rule_has_a_message(kind: Definition) -> None:
    for path, node in _all(kind):
        for rule in node.get("x-kubernetes-validations", []):
            assert rule["message"], path
            assert "self.?" not in rule["rule"] or "oldSelf.?" not in rule["rule"], f"{path}: costs too much"


@KINDS
def test_spec_is_required_and_status_defaults_to_unseen(kind: Definition) -> None:
    schema = crds.object_schema(kind)
    assert schema["required"] == ["spec"]
    assert schema["properties"]["status"]["default"] == {"observedGeneration": -1}


def test_columns_are_those_that_people_know() -> None:
    columns = {kind.kind: [(c["name"].upper(), c.get("priority", 0)) for c in kind.columns] for kind in DEFINITIONS}
    narrow = {kind: [name for name, priority in names if not priority] for kind, names in columns.items()}
    assert narrow == {
        "Automation": ["STATUS", "WORKERS", "WAITING", "HELD", "RUNNING", "FAILED-24H", "LAST", "AGE"],
        "Schedule": ["SCHEDULE", "TIMEZONE", "AUTOMATION", "STATUS", "ACTIVE", "LAST", "NEXT", "AGE"],
        "Reprocessing": ["SOLUTION", "PHASE", "DONE", "TOTAL", "BLOCKING", "BY", "AGE"],
    }
    assert [name for name, priority in columns["Automation"] if priority] == [
        "SOLUTION",
        "QUEUE",
        "IMAGE",
        "DEAD-LETTERS",
    ]
    assert [kind.short_name for kind in DEFINITIONS] == ["auto", "sched", "reproc"]
