"""Templates over parameters become keys."""

from __future__ import annotations

from typing import Any

import pytest

from maestro.reprocessing.cascade import Templates, key_hash, keys, templates_of


@pytest.mark.parametrize(
    ("templates", "parameters", "wanted"),
    [
        (["price-list"], {}, {"price-list"}),
        (["price-list/$(params.list)"], {"list": "gold"}, {"price-list/gold"}),
        (["price-list/$(params.list)"], {}, set()),
        (["price-list/$(params.list)"], {"list": None}, set()),
        (["$(params.a)/$(params.b)"], {"a": "x", "b": 7}, {"x/7"}),
        (["day/$(params.day.from)"], {"day": {"from": "2026-03-01"}}, {"day/2026-03-01"}),
        (["day/$(params.day.from)"], {"day": "2026-03-01"}, set()),
        (["flag/$(params.on)", "flag/$(params.off)"], {"on": True, "off": 0.5}, {"flag/true", "flag/0.5"}),
        (["ids/$(params.ids)"], {"ids": [2, 1]}, {"ids/[2,1]"}),
        (["a", "a/$(params.x)"], {"x": "$(params.y)", "y": "no"}, {"a", "a/$(params.y)"}),
    ],
)
def test_keys(templates: list[str], parameters: dict[str, Any], wanted: set[str]) -> None:
    assert keys(templates, parameters) == wanted


def test_equal_keys_have_equal_hashes_and_others_dont() -> None:
    assert key_hash("a/é") == key_hash("a/é")
    assert key_hash("a/1") != key_hash("a/2")
    assert key_hash("\ud800")  # half a surrogate pair, as a parameter may hold it


def test_templates_of_one_solution() -> None:
    def obj(name: str, namespace: str = "shop", **spec: Any) -> dict[str, Any]:
        return {"metadata": {"namespace": namespace, "name": name}, "spec": spec}

    automations = [
        obj("a", solution="prices", reads=["x"], writes=["y"]),
        obj("b", solution="stock", reads=["x"]),
        obj("c"),
        obj("d", namespace="other", solution="prices"),
    ]
    assert templates_of(automations, "shop", "prices") == {"shop.a": Templates(("x",), ("y",))}
    assert templates_of(automations, "shop", "shop") == {"shop.c": Templates()}
