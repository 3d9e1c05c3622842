"""Rendering of the CustomResourceDefinitions and of their reference, and the command that does it: `maestro crds`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from maestro.resources import reference
from maestro.resources.group import API_VERSION, GROUP, VERSION
from maestro.resources.kinds import DEFINITIONS, Definition
from maestro.resources.names import LABEL_PART_OF
from maestro.resources.schema import Schema, structural

HEADER = "# Generated from operator/maestro/resources by 'maestro crds'; do not edit.\n"
DEFAULT_OUTPUT = Path("crds")
DEFAULT_DOCS = Path("docs/resources.md")


def definition(kind: Definition) -> dict[str, Any]:
    """Return a kind's CustomResourceDefinition as the API server takes it."""
    version: dict[str, Any] = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "additionalPrinterColumns": list(kind.columns),
        "subresources": {"status": {}, **({"scale": kind.scale} if kind.scale else {})},
        "schema": {"openAPIV3Schema": object_schema(kind)},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{GROUP}", "labels": {LABEL_PART_OF: "maestro"}},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind.kind,
                "listKind": f"{kind.kind}List",
                "plural": kind.plural,
                "singular": kind.singular,
                "shortNames": [kind.short_name],
                "categories": ["maestro"],
            },
            "versions": [version],
        },
    }


def object_schema(kind: Definition) -> Schema:
    """Return the structural schema of a whole object of that kind."""
    schema = structural(kind.model)
    properties = schema["properties"]
    # The API server knows these three itself; a schema may say no more of them.
    standard = {
        "apiVersion": {"description": f"The API version of this kind: {API_VERSION}.", "type": "string"},
        "kind": {"description": f"The kind of this object: {kind.kind}.", "type": "string"},
        "metadata": {"type": "object"},
    }
    own = {name: field for name, field in properties.items() if name not in standard}
    return {**schema, "required": ["spec"], "properties": {**standard, **own}}


def render() -> dict[str, str]:
    """Return the text of every file of `crds/` by its name."""
    return {f"{kind.plural}.yaml": HEADER + _yaml(definition(kind)) for kind in DEFINITIONS}


def main(argv: Sequence[str]) -> int:
    """Write the rendered files, or with `--check` compare them; returns the exit code (1: something differs)."""
    parser = argparse.ArgumentParser(
        prog="maestro crds",
        description="Render the CustomResourceDefinitions and their reference from the models. Without --output and "
        f"--docs: both, at {DEFAULT_OUTPUT}/ and {DEFAULT_DOCS}.",
    )
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where a file differs")
    parser.add_argument("--output", type=Path, metavar="DIR", help="the folder of the CustomResourceDefinitions")
    parser.add_argument(
        "--docs", type=Path, metavar="FILE", nargs="?", const=DEFAULT_DOCS, help=f"the reference ({DEFAULT_DOCS})"
    )
    args = parser.parse_args(argv)
    output, docs = args.output, args.docs
    if output is None and docs is None:
        output, docs = DEFAULT_OUTPUT, DEFAULT_DOCS
    wanted: dict[Path, str] = {}
    if output is not None:
        wanted |= {output / name: text for name, text in render().items()}
    if docs is not None:
        wanted[docs] = reference.render((kind, object_schema(kind)) for kind in DEFINITIONS)
    if args.check:
        return _check(wanted, output)
    for path, text in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return 0


def _check(wanted: Mapping[Path, str], output: Path | None) -> int:
    problems = []
    for path, text in wanted.items():
        if not path.is_file():
            problems.append(f"{path}: is missing")
        elif path.read_text(encoding="utf-8") != text:
            problems.append(f"{path}: differs from the models")
    if output is not None:
        problems += [f"{path}: no model renders it" for path in sorted(output.glob("*.yaml")) if path not in wanted]
    for problem in problems:
        print(f"maestro crds: {problem}; run 'maestro crds'", file=sys.stderr)
    return 1 if problems else 0


class _Dumper(yaml.SafeDumper):
    """Writes every use of a list or an object in full: people read these files, and anchors would puzzle them."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _yaml(document: dict[str, Any]) -> str:
    return yaml.dump(document, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
