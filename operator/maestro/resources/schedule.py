"""The kind Schedule: cron rules that start Runs of one Automation."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StringConstraints

from maestro.resources import names
from maestro.resources.conditions import Conditions
from maestro.resources.duration import Duration
from maestro.resources.fields import (
    ATOMIC,
    SET,
    AutomationName,
    FreeObject,
    ObjectName,
    RunId,
    ShortText,
    section,
)
from maestro.resources.model import Model, Resource
from maestro.resources.rules import extra, forbidden, object_name, rule

CronRule = Annotated[str, StringConstraints(min_length=1, max_length=256)]
MissedPolicy = Literal["None", "Latest", "All"]


class DaylightSaving(Model):
    """What becomes of a tick at a time of day that doesn't exist, or exists twice."""

    gap: Literal["RunAfter", "Skip"] = Field(
        "RunAfter",
        description="A tick at 02:30 on the day when 02:00 is followed by 03:00. RunAfter, the default: it runs at "
        "03:00. Skip: it doesn't run.",
    )
    overlap: Literal["First", "Second", "Both"] = Field(
        "First",
        description="A tick at 01:30 on the day that has 01:30 twice: it runs at the First (the default), at the "
        "Second, or at Both.",
    )


class DateRange(Model):
    """Days from one to another, both included."""

    model_config = ConfigDict(
        populate_by_name=True,
        json_schema_extra=extra(rule("self.from <= self.to", "from must not be later than to", field=".from")),
    )

    from_: date = Field(alias="from", description="The first day, as 2026-12-24.")
    to: date = Field(description="The last day, as 2026-12-31.")


class CalendarKey(Model):
    """A key of a ConfigMap."""

    name: ObjectName = Field(description="The ConfigMap's name, in the Schedule's namespace.")
    key: Annotated[str, StringConstraints(min_length=1, max_length=253)] = Field(
        "calendar.ics", description="The key whose value is the calendar. Defaults to calendar.ics."
    )


class Exclude(Model):
    """Days without ticks."""

    dates: Annotated[list[date], Field(max_length=1000, json_schema_extra=SET)] | None = Field(
        None, description="Single days, as 2026-12-25, in the Schedule's time zone."
    )
    ranges: Annotated[list[DateRange], Field(max_length=250, json_schema_extra=ATOMIC)] | None = Field(
        None, description="Ranges of days, first and last day included."
    )
    weekdays: (
        Annotated[
            list[Literal["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]],
            Field(max_length=7, json_schema_extra=SET),
        ]
        | None
    ) = Field(None, description="Days of the week, such as Saturday and Sunday.")
    config_map: CalendarKey | None = Field(
        None, description="A ConfigMap with a calendar (iCalendar) whose events are excluded days, such as holidays."
    )
    on_excluded: Literal["Skip", "Previous", "Next"] = Field(
        "Skip",
        description="What becomes of a tick on an excluded day. Skip, the default: it doesn't run. Previous and Next "
        "move it to the nearest day before or after that isn't excluded: the last business day of a month is "
        "0 8 L * * with Previous.",
    )


class Missed(Model):
    """What becomes of ticks whose time passed while they couldn't run."""

    on_outage: MissedPolicy = Field(
        "Latest",
        description="Ticks that passed while Maestro was down: None of them runs, the Latest does (the default), or "
        "All do, oldest first.",
    )
    on_resume: MissedPolicy = Field(
        "None",
        description="Ticks that passed while the Schedule was suspended: None of them runs (the default), the Latest "
        "does, or All do, oldest first.",
    )
    on_blocked: MissedPolicy = Field(
        "Latest",
        description="Ticks that passed while the Solution's gateway was blocked: None of them runs, the Latest does "
        "(the default), or All do, oldest first.",
    )
    max_runs: Annotated[int, Field(ge=1, le=10_000)] = Field(
        100, description="With All: how many run at most, the newest ones. Defaults to 100."
    )


class ScheduleSpec(Model):
    """What is started, and when."""

    model_config = ConfigDict(
        json_schema_extra=extra(
            rule(
                "has(self.schedule) != has(self.schedules)",
                "exactly one of schedule and schedules must be given",
                field=".schedule",
            ),
            rule(
                "!has(self.startAt) || !has(self.endAt) || self.startAt < self.endAt",
                "endAt must be later than startAt",
                field=".endAt",
            ),
            forbidden(
                "!has(self.schedule) || !(self.schedule.startsWith('TZ=') || self.schedule.startsWith('CRON_TZ='))",
                "schedule may not name a time zone; use timeZone",
                field=".schedule",
            ),
        )
    )

    automation: AutomationName = Field(
        description="The name of the Automation, in the same namespace. While it doesn't exist the Schedule isn't "
        "Ready, with reason AutomationNotFound; it arms itself when the Automation appears."
    )
    schedule: CronRule | None = Field(
        None,
        description="When: a rule of five cron fields such as 0 6 * * 1-5, or a word such as @daily; L is the last day "
        "of the month. Day of month and day of week both given: either matches, as in cron. Exactly one of schedule "
        "and schedules is needed.",
    )
    schedules: Annotated[list[CronRule], Field(min_length=1, max_length=16, json_schema_extra=SET)] | None = Field(
        None,
        description="When: several rules; an instant that several of them match is one tick. In place of schedule.",
    )
    time_zone: Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z][A-Za-z0-9_+/-]*$")] = (
        Field(
            "UTC",
            description="The IANA name of the time zone that the rules are read in, such as Europe/Lisbon. Defaults to "
            "UTC. An unknown one makes the Schedule Stalled with reason UnknownTimeZone.",
        )
    )
    dst: DaylightSaving = section(DaylightSaving, "What happens when the clocks change.")
    start_at: datetime | None = Field(None, description="No tick before this instant. Defaults to none.")
    end_at: datetime | None = Field(None, description="No tick after this instant. Defaults to none.")
    exclude: Exclude | None = Field(None, description="Days without ticks. Defaults to none.")
    suspend: bool = Field(
        False,
        description="Whether nothing is started. Defaults to false. missed.onResume says what becomes of the ticks in "
        "between.",
    )
    launch: Literal["Job", "Queue"] = Field(
        "Job",
        description="What a tick starts. Job, the default: a Kubernetes Job made from the Automation's worker. Queue: "
        "a Run for the Automation's queue; an Automation with launch: Job has none, and the Schedule is then Stalled "
        "with reason LaunchMismatch.",
    )
    concurrency_policy: Literal["Allow", "Forbid", "Replace"] = Field(
        "Forbid",
        description="What becomes of a tick while a Run of an earlier one is still going. Allow: both run. Forbid, the "
        "default: the tick is skipped. Replace: the earlier one is canceled first.",
    )
    starting_deadline_seconds: Annotated[int, Field(ge=1, le=31_536_000)] | None = Field(
        None,
        description="A tick that is late by more than so many seconds is recorded as Missed and doesn't run. Defaults "
        "to none: no tick is too late.",
    )
    missed: Missed = section(
        Missed, "What becomes of ticks that passed while Maestro was down, the Schedule suspended or the gateway shut."
    )
    jitter: Duration | None = Field(
        None,
        description="Spreads starts over this time after each tick, by an amount that is always the same for the same "
        "Schedule and tick. Defaults to none: ticks start on the minute.",
    )
    parameters: FreeObject | None = Field(
        None,
        description="Parameters of the Runs, merged over the Automation's defaultParameters. Texts may hold "
        "placeholders such as $(yesterday), $(first_of_last_month) or $(today-2|%d/%m/%Y), which are resolved against "
        "the tick and never against the clock, so that a replay gets the same values.",
    )
    successful_jobs_history_limit: Annotated[int, Field(ge=0, le=1000)] = Field(
        3, description="How many succeeded Kubernetes Jobs are kept. Defaults to 3."
    )
    failed_jobs_history_limit: Annotated[int, Field(ge=0, le=1000)] = Field(
        1, description="How many failed Kubernetes Jobs are kept. Defaults to 1."
    )


class ActiveReference(Model):
    """A Job or a Run that a tick started and that hasn't ended."""

    api_version: ShortText | None = Field(None, description="The Job's API version.")
    kind: ShortText | None = Field(None, description="Job, or Run.")
    name: ShortText = Field(description="The Job's name, or the Run's id.")
    namespace: ShortText | None = Field(None, description="The Job's namespace.")
    uid: ShortText | None = Field(None, description="The Job's UID.")


class TickCounts(Model):
    """How the ticks so far ended."""

    started: int | None = Field(None, description="Ticks that started a Run.")
    skipped: int | None = Field(None, description="Ticks that were left out by a rule, such as concurrencyPolicy.")
    missed: int | None = Field(None, description="Ticks that couldn't start in time.")


class RecentTick(Model):
    """A tick and what became of it."""

    time: datetime = Field(description="The scheduled instant.")
    outcome: Literal["Started", "Skipped", "Missed"] = Field(description="Started, Skipped or Missed.")
    reason: ShortText | None = Field(None, description="Why it was skipped or missed, in a word.")
    run: RunId | None = Field(None, description="The id of the Run that it started.")


class ScheduleStatus(Model):
    """What the Schedule is, as its controller last saw it."""

    observed_generation: int = Field(
        -1, description="The metadata.generation that the status speaks of; -1 while nobody has looked at the object."
    )
    conditions: Conditions = Field(
        default_factory=list,
        description="Ready (the Schedule is armed), LastRunSucceeded and Late; Reconciling while Maestro waits for "
        "something, Stalled where somebody has to change something.",
    )
    schedule: Annotated[str, StringConstraints(max_length=8192)] | None = Field(
        None, description="The rules in one line, for people."
    )
    last_schedule_time: datetime | None = Field(None, description="The last tick that started a Run.")
    next_schedule_time: datetime | None = Field(None, description="The next tick.")
    last_successful_time: datetime | None = Field(None, description="When a Run of this Schedule last succeeded.")
    active: Annotated[list[ActiveReference], Field(max_length=100, json_schema_extra=ATOMIC)] | None = Field(
        None, description="What ticks started and hasn't ended, at most 100."
    )
    ticks: TickCounts | None = Field(None, description="How the ticks so far ended.")
    recent_ticks: Annotated[list[RecentTick], Field(max_length=10, json_schema_extra=ATOMIC)] | None = Field(
        None, description="The last ten ticks, the newest first."
    )


class Schedule(Resource):
    """Cron rules that start Runs of one Automation."""

    model_config = ConfigDict(json_schema_extra=extra(object_name(names.MAX_SCHEDULE_NAME)))

    kind: Literal["Schedule"] = "Schedule"
    spec: ScheduleSpec = Field(description="What is started, and when; written by people and Git.")
    status: ScheduleStatus = Field(
        default_factory=ScheduleStatus,
        description="What the Schedule is, as its controller last saw it. Only Maestro writes it.",
        json_schema_extra={"default": {"observedGeneration": -1}},
    )
