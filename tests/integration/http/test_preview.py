"""The preview of a rule: its ticks with what the clocks and excluded days do to them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
from tests.integration.http.api import Answer, Api

PATH = "/api/v1/schedules/preview"


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    running = Api(tmp_path_factory.mktemp("api"))
    try:
        yield running
    finally:
        running.close()


def preview(api: Api, schedule: str, token: str | None = "ana", **query: Any) -> Answer:
    return api.call("GET", f"{PATH}?{urlencode({'schedule': schedule, **query})}", token=token)


def test_a_gap(api: Api) -> None:
    """With RunAfter and with Skip."""
    query = {"timeZone": "Europe/Berlin", "count": 2, "after": "2026-03-28T12:00:00Z"}
    ran = preview(api, "30 2 * * *", **query)
    assert ran.status == 200
    assert ran.json == {
        "timeZone": "Europe/Berlin",
        "after": "2026-03-28T12:00:00.000Z",
        "items": [
            {
                "at": "2026-03-29T01:00:00.000Z",
                "local": "2026-03-29T03:00:00+02:00",
                "fires": True,
                "reason": None,
                "change": "Gap",
                "movedFrom": None,
                "explanation": "02:30 on Sunday 2026-03-29 doesn't exist in Europe/Berlin: 02:00 is followed by 03:00; "
                "it runs at 03:00",
            },
            {
                "at": "2026-03-30T00:30:00.000Z",
                "local": "2026-03-30T02:30:00+02:00",
                "fires": True,
                "reason": None,
                "change": None,
                "movedFrom": None,
                "explanation": None,
            },
        ],
    }
    skipped = preview(api, "30 2 * * *", gap="Skip", **query).json["items"][0]
    assert (skipped["fires"], skipped["reason"]) == (False, "Gap")
    assert skipped["explanation"].endswith("; it is skipped")


def test_an_overlap(api: Api) -> None:
    """Both of them, told apart."""
    items = preview(
        api, "30 1 * * *", timeZone="America/New_York", count=2, after="2026-10-31T12:00:00Z", overlap="Both"
    ).json["items"]
    assert [item["local"] for item in items] == ["2026-11-01T01:30:00-04:00", "2026-11-01T01:30:00-05:00"]
    assert [item["change"] for item in items] == ["First", "Second"]
    twice = "01:30 on Sunday 2026-11-01 comes twice in America/New_York; this is the"
    assert [item["explanation"] for item in items] == [f"{twice} first time", f"{twice} second time"]


def test_a_day_that_does_not_exist(api: Api) -> None:
    """Samoa left out 30 December 2011."""
    (item,) = preview(api, "0 12 30 12 *", timeZone="Pacific/Apia", count=1, after="2011-12-29T00:00:00Z").json["items"]
    assert item["local"] == "2011-12-31T00:00:00+14:00"
    assert item["explanation"] == (
        "12:00 on Friday 2011-12-30 doesn't exist in Pacific/Apia: 00:00 is followed by 00:00 on Saturday 2011-12-31; "
        "it runs at 00:00 on Saturday 2011-12-31"
    )


def test_excluded_days(api: Api) -> None:
    """The last business day, with a range of holidays."""
    query = {
        "count": 2,
        "after": "2026-01-01T00:00:00Z",
        "weekdays": "Saturday,Sunday",
        "ranges": "2026-02-26/2026-02-27",
        "dates": "2026-03-31,2026-02-25",
    }
    moved = preview(api, "0 8 L * *", onExcluded="Previous", **query).json["items"]
    assert [(item["local"], item["movedFrom"]) for item in moved] == [
        ("2026-01-30T08:00:00+00:00", "2026-01-31"),
        ("2026-02-24T08:00:00+00:00", "2026-02-28"),
    ]
    assert moved[0]["explanation"] == "moved from Saturday 2026-01-31, which is excluded"
    skipped = preview(api, "0 8 L * *", **query).json["items"][0]
    assert (skipped["fires"], skipped["reason"]) == (False, "Excluded")
    assert skipped["explanation"] == "Saturday 2026-01-31 is excluded"


def test_several_rules_from_now_on(api: Api) -> None:
    """With a semicolon in between; ten ticks unless more are asked for."""
    items = preview(api, "0 6 * * *; 0 18 * * *").json["items"]
    assert len(items) == 10
    assert {item["local"][11:16] for item in items} == {"06:00", "18:00"}


def test_ticks_far_away_are_few(api: Api) -> None:
    """No more than fifty years are looked through."""
    items = preview(api, "0 0 29 2 *", count=100, after="2026-01-01T00:00:00Z").json["items"]
    assert [item["at"][:4] for item in items] == [str(year) for year in range(2028, 2076, 4)]


BAD = [
    ({}, "schedule", "is required"),
    ({"schedule": "61 * * * *"}, "schedule", "minute at character 1 of '61 * * * *': '61' is not 0 to 59"),
    ({"schedule": "0 6 * * 8"}, "schedule", "day of week at character 9 of '0 6 * * 8': '8' is not 0 to 7"),
    ({"schedule": "0 6 * * *;0 0 30 2 *"}, "schedule.1", "never fires: there is no day 30 in FEB"),
    ({"schedule": ";".join(["@daily"] * 17)}, "schedule", "has 17 rules; at most 16 are allowed"),
    ({"schedule": "@daily", "timeZone": "Europe/Lisboa"}, "timeZone", "did you mean Europe/Lisbon?"),
    ({"schedule": "@daily", "timeZone": "../etc/passwd"}, "timeZone", "there is no time zone"),
    ({"schedule": "@daily", "count": "0"}, "count", "greater than or equal to 1"),
    ({"schedule": "@daily", "count": "101"}, "count", "less than or equal to 100"),
    ({"schedule": "@daily", "after": "yesterday"}, "after", "datetime"),
    ({"schedule": "@daily", "gap": "Later"}, "gap", "'RunAfter' or 'Skip'"),
    ({"schedule": "@daily", "overlap": "None"}, "overlap", "'First', 'Second' or 'Both'"),
    ({"schedule": "@daily", "dates": "2026-02-30"}, "dates.0", "date"),
    ({"schedule": "@daily", "ranges": "2026-02-30/2026-03-01"}, "ranges.0", "is not two days of the calendar"),
    ({"schedule": "@daily", "ranges": "2026-03-02/2026-03-01"}, "ranges.0", "the first day must not be later"),
    ({"schedule": "@daily", "weekdays": "Caturday"}, "weekdays.0", "'Monday'"),
    ({"schedule": "@daily", "cron": "x"}, "cron", "unknown"),
]


@pytest.mark.parametrize(("query", "path", "words"), BAD, ids=[bad[1] + "-" + bad[2][:20] for bad in BAD])
def test_bad_input(api: Api, query: dict[str, str], path: str, words: str) -> None:
    """422 with the field, the position and the rule."""
    answer = api.call("GET", f"{PATH}?{urlencode(query)}")
    assert answer.status == 422
    assert answer.json["details"][0]["path"] == path
    assert words in answer.json["details"][0]["rule"]
    assert words in answer.json["message"]


def test_who_may_look(api: Api) -> None:
    """Whoever the API server knows: nothing of anybody's is shown."""
    assert preview(api, "@daily", token=None).status == 401
    assert preview(api, "@daily", token="nobody").status == 401
    assert preview(api, "@daily", token="eve").status == 200
