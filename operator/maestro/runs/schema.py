"""The tables of the run store. Times are microseconds since the epoch; states are the codes of lifecycle.

`run` is hot: four updates in a Run's life, none of them HOT on PostgreSQL, so an index more is paid for four times.
What is only looked up or shown stands in `run_detail`, which is written once.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    Float,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    Uuid,
    text,
)

metadata = MetaData()

_KEY = BigInteger().with_variant(Integer, "sqlite")
"""SQLite counts up by itself only in a column that is exactly INTEGER PRIMARY KEY."""


def _key(name: str) -> Column[int]:
    return Column(name, _KEY, Identity(always=False), primary_key=True)


leader = Table(
    "leader",
    metadata,
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    Column("epoch", BigInteger, nullable=False),
    Column("next_pub", BigInteger, nullable=False),
    Column("confirmed_pub", BigInteger, nullable=False),
    Column("store_id", Text, nullable=False),
)

solution = Table("solution", metadata, _key("pk"), Column("id", Text, nullable=False, unique=True))

automation = Table(
    "automation",
    metadata,
    _key("pk"),
    Column("uid", Text, nullable=False, unique=True),
    Column("id", Text, nullable=False),
    Column("solution_id", BigInteger, nullable=False),
    Column("generation", BigInteger, nullable=False),
    Column("body", Text, nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("failures", Integer, nullable=False, server_default="0"),
    Column("deleted_at", BigInteger),
    Column("reaped_at", BigInteger),
    Index("automation_by_id", "id"),
)

run = Table(
    "run",
    metadata,
    _key("seq"),
    Column("id", Uuid, nullable=False),
    Column("automation_id", BigInteger, nullable=False),
    Column("solution_id", BigInteger, nullable=False),
    Column("state", SmallInteger, nullable=False),
    Column("ready", SmallInteger, nullable=False),
    Column("rank", BigInteger, nullable=False),
    Column("ckey", Uuid),
    Column("slot", Integer),
    Column("pub", BigInteger),
    Column("epoch", BigInteger),
    Column("returns", SmallInteger, nullable=False, server_default="0"),
    Column("attempt", Integer, nullable=False, server_default="0"),
    Column("max_attempts", Integer, nullable=False),
    Column("holder", Text),
    Column("holder_pub", BigInteger),
    Column("alarm_at", BigInteger),
    Column("due_at", BigInteger),
    Column("lease_at", BigInteger),
    Column("deadline_at", BigInteger),
    Column("expires_at", BigInteger),
    Column("heartbeat_at", BigInteger),
    Column("cancel_at", BigInteger),
    Column("cancel_why", Text),
    Column("reason", Text),
    Column("end_report", Text),
    Column("copy_of", Uuid),
    Column("replay_of", Uuid),
    Column("log_lines", Integer, nullable=False, server_default="0"),
    Column("accepted_at", BigInteger, nullable=False),
    Column("queued_at", BigInteger),
    Column("started_at", BigInteger),
    Column("ended_at", BigInteger),
    Column("parameters", Text, nullable=False),
    Column("result", Text),
    Column("error_class", Text),
    Column("message", Text),
    Column("alone", SmallInteger, nullable=False, server_default="0"),
)


def _index(name: str, *columns: str, where: str | None = None, unique: bool = False) -> Index:
    conditions: dict[str, Any] = {} if where is None else {"sqlite_where": text(where), "postgresql_where": text(where)}
    return Index(name, *(run.c[column] for column in columns), unique=unique, **conditions)


_index("run_id", "id", unique=True)
_index("run_automation", "automation_id", "seq")
_index("run_ready", "automation_id", "rank", "seq", where="state = 1 AND ready = 1")
_index("run_parked", "automation_id", "seq", where="ready = 0 AND state IN (1, 4)")
_index("run_held", "solution_id", "seq", where="state = 0")
_index("run_queued", "automation_id", "pub", where="state = 2")
_index("run_holder", "automation_id", "holder", where="state = 3")
_index("run_alone", "automation_id", where="alone = 1 AND state IN (2, 3)")
_index("run_alarm", "alarm_at", where="alarm_at IS NOT NULL")
_index("run_ended", "automation_id", "state", "seq", where="state >= 5")
_index("run_key_flight", "automation_id", "ckey", where="ckey IS NOT NULL AND state IN (2, 3, 4)", unique=True)
_index("run_key_waiting", "automation_id", "ckey", "seq", where="ckey IS NOT NULL AND state IN (0, 1)")
_index("run_slot", "automation_id", "slot", where="slot IS NOT NULL", unique=True)

run_detail = Table(
    "run_detail",
    metadata,
    Column("run_seq", _KEY, primary_key=True, autoincrement=False),
    Column("automation_id", BigInteger, nullable=False),
    Column("user_name", Text),
    Column("reference", Text),
    Column("schedule", Text),
    Column("tick", BigInteger),
    Column("priority", Integer, nullable=False, server_default="0"),
    Column("fairness_key", Text),
    Column("labels", Text),
    Column("notify", Text),
    Column("traceparent", Text),
    Column("job", Text),
    Column("reprocessing", Text),
    Index(
        "run_detail_user",
        "user_name",
        "run_seq",
        sqlite_where=text("user_name IS NOT NULL"),
        postgresql_where=text("user_name IS NOT NULL"),
    ),
    Index(
        "run_detail_reference",
        "reference",
        "run_seq",
        sqlite_where=text("reference IS NOT NULL"),
        postgresql_where=text("reference IS NOT NULL"),
    ),
)

attempt = Table(
    "attempt",
    metadata,
    Column("run_seq", BigInteger, primary_key=True, autoincrement=False),
    Column("attempt", Integer, primary_key=True, autoincrement=False),
    Column("holder", Text),
    Column("started_at", BigInteger),
    Column("ended_at", BigInteger, nullable=False),
    Column("outcome", Text, nullable=False),
    Column("reason", Text),
    Column("message", Text),
    sqlite_with_rowid=False,
)

run_key = Table(
    "run_key",
    metadata,
    Column("automation_id", BigInteger, primary_key=True, autoincrement=False),
    Column("ckey", Uuid, primary_key=True),
    Column("n", Integer, nullable=False),
    Column("blocked_by", Uuid),
    sqlite_with_rowid=False,
)

fairness = Table(
    "fairness",
    metadata,
    Column("automation_id", BigInteger, primary_key=True, autoincrement=False),
    Column("priority", Integer, primary_key=True, autoincrement=False),
    Column("key", Text, primary_key=True),
    Column("turn", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

idempotency = Table(
    "idempotency",
    metadata,
    Column("automation_id", BigInteger, primary_key=True, autoincrement=False),
    Column("key", Text, primary_key=True),
    Column("run_id", Uuid, nullable=False),
    Column("body_hash", LargeBinary),
    Column("expires_at", BigInteger, nullable=False),
    Index("idempotency_expires", "expires_at"),
    sqlite_with_rowid=False,
)

run_count = Table(
    "run_count",
    metadata,
    Column("automation_id", BigInteger, primary_key=True, autoincrement=False),
    Column("state", SmallInteger, primary_key=True, autoincrement=False),
    Column("writer", Text, primary_key=True),
    Column("n", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
"""Each process counts in rows of its own, so that no two wait for each other; the sum over them is the count."""

run_tally = Table(
    "run_tally",
    metadata,
    Column("automation_id", BigInteger, primary_key=True, autoincrement=False),
    Column("bucket", BigInteger, primary_key=True, autoincrement=False),
    Column("state", SmallInteger, primary_key=True, autoincrement=False),
    Column("writer", Text, primary_key=True),
    Column("n", BigInteger, nullable=False),
    Index("run_tally_bucket", "bucket"),
    sqlite_with_rowid=False,
)
"""Runs that ended, by ten minutes: what 'in the last 24 hours' is answered from."""

run_started = Table(
    "run_started",
    metadata,
    Column("automation_id", BigInteger, primary_key=True, autoincrement=False),
    Column("writer", Text, primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("pub", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
"""The latest publication that was started on each queue: what was published before it and waits was overtaken."""

log = Table(
    "log",
    metadata,
    Column("run_seq", BigInteger, primary_key=True, autoincrement=False),
    Column("n", Integer, primary_key=True, autoincrement=False),
    Column("at", BigInteger, nullable=False),
    Column("level", Text, nullable=False),
    Column("message", Text, nullable=False),
    Column("actionable", SmallInteger, nullable=False),
    Column("attempt", Integer, nullable=False),
    sqlite_with_rowid=False,
)

progress = Table(
    "progress",
    metadata,
    Column("run_seq", BigInteger, primary_key=True, autoincrement=False),
    Column("done", Float(53)),
    Column("total", Float(53)),
    Column("text", Text),
    Column("at", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

unknown_run = Table(
    "unknown_run",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("op", Text, nullable=False),
    Column("worker", Text),
    Column("at", BigInteger, nullable=False),
    Column("automation_id", BigInteger),
    Column("first_at", BigInteger),
    Column("said", Text),
    Column("store", Text),
    Column("epoch", BigInteger),
    Column("pub", BigInteger),
    Index("unknown_run_automation", "automation_id", "at"),
)
"""Runs that a worker named and the store doesn't know: a restored store, or a stranger's message."""

former_store = Table(
    "former_store",
    metadata,
    Column("id", Text, primary_key=True),
    Column("how", Text, nullable=False),
    Column("epoch", BigInteger),
    Column("pub", BigInteger),
    Column("run_id", Uuid),
    Column("noticed_at", BigInteger, nullable=False),
    Column("handled_at", BigInteger),
)
"""Ids under which messages were sent that this store may know nothing of: see `restored`."""

dead_letter = Table(
    "dead_letter",
    metadata,
    _key("seq"),
    Column("identity", Text, nullable=False),
    Column("twin", Integer, nullable=False),
    Column("automation_id", BigInteger),
    Column("run_id", Uuid),
    Column("queue", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("count", BigInteger, nullable=False),
    Column("store", Text),
    Column("pub", BigInteger),
    Column("message_id", Text),
    Column("content_type", Text),
    Column("headers", Text, nullable=False),
    Column("body", LargeBinary, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("died_at", BigInteger),
    Column("at", BigInteger, nullable=False),
    Column("redriven_at", BigInteger),
    Column("redriven_as", Uuid),
    Column("redriven_by", Text),
    Index("dead_letter_identity", "identity", "twin", unique=True),
    Index("dead_letter_automation", "automation_id", "seq"),
    Index(
        "dead_letter_run",
        "run_id",
        "seq",
        sqlite_where=text("run_id IS NOT NULL"),
        postgresql_where=text("run_id IS NOT NULL"),
    ),
)
"""`twin` tells letters apart that are alike in everything, and that yet are two: foreign messages without an id."""

dead_letter_count = Table(
    "dead_letter_count",
    metadata,
    Column("automation_id", BigInteger, primary_key=True, autoincrement=False),
    Column("n", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
"""Letters of an Automation that nobody has redriven or discarded; 0 stands for those of none."""

schedule = Table(
    "schedule",
    metadata,
    Column("uid", Text, primary_key=True),
    Column("id", Text, nullable=False),
    Column("cursor", BigInteger, nullable=False),
    Column("timetable", Text, nullable=False),
    Column("started", BigInteger, nullable=False, server_default="0"),
    Column("skipped", BigInteger, nullable=False, server_default="0"),
    Column("missed", BigInteger, nullable=False, server_default="0"),
    Column("last_tick", BigInteger),
    Column("last_success_at", BigInteger),
    Column("last_end", Text),
    Column("last_end_at", BigInteger),
    Column("run_now", Text),
    sqlite_with_rowid=False,
)
"""What is known of a Schedule: every tick up to `cursor` stands in `tick`, or stood there."""

tick = Table(
    "tick",
    metadata,
    Column("schedule_uid", Text, primary_key=True),
    Column("at", BigInteger, primary_key=True, autoincrement=False),
    Column("mark", Text, primary_key=True),
    Column("outcome", SmallInteger, nullable=False),
    Column("reason", Text),
    Column("run_id", Uuid),
    Column("open", SmallInteger, nullable=False),
    Column("job", Text),
    Column("late", BigInteger, nullable=False),
    Column("recorded_at", BigInteger, nullable=False),
    Column("ended", Text),
    Column("ended_at", BigInteger),
    Column("user_name", Text),
    Index("tick_open", "schedule_uid", "at", sqlite_where=text("open = 1"), postgresql_where=text("open = 1")),
    sqlite_with_rowid=False,
)
"""The tick ledger: being its key, no instant of a Schedule is recorded twice. `open`: it waits, or its Run goes on."""

replay = Table(
    "replay",
    metadata,
    _key("pk"),
    Column("uid", Text, nullable=False, unique=True),
    Column("id", Text, nullable=False),
    Column("name", Text, nullable=False),
    Column("solution", Text, nullable=False),
    Column("spec_hash", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("planned_at", BigInteger),
    Column("plan_hash", Text),
    Column("digest", Text, nullable=False, server_default="0"),
    Column("total", BigInteger, nullable=False, server_default="0"),
    Column("predicted", BigInteger),
    Column("approved_at", BigInteger),
    Column("began_at", BigInteger),
    Column("replaying_at", BigInteger),
    Column("waived", SmallInteger, nullable=False, server_default="0"),
    Column("stop_reason", Text),
    Column("stop_message", Text),
    Column("stop_resume", BigInteger),
    Column("succeeded", BigInteger, nullable=False, server_default="0"),
    Column("failed", BigInteger, nullable=False, server_default="0"),
    Column("added", BigInteger, nullable=False, server_default="0"),
    Column("allowed", BigInteger, nullable=False, server_default="0"),
    Column("ended_at", BigInteger),
    Column("outcome", Text),
    Column("reason", Text),
    Column("message", Text),
    Index("replay_by_id", "id"),
    Index(
        "replay_open",
        "solution",
        sqlite_where=text("ended_at IS NULL"),
        postgresql_where=text("ended_at IS NULL"),
    ),
)
"""A Reprocessing: its plan, its turn, where it stopped, how it ended. Outlives its object, so that one that is made
again from Git is recognized."""

replay_item = Table(
    "replay_item",
    metadata,
    Column("replay", BigInteger, primary_key=True, autoincrement=False),
    Column("at", BigInteger, primary_key=True, autoincrement=False),
    Column("run_id", Uuid, primary_key=True),
    Column("run_seq", BigInteger, nullable=False),
    Column("state", SmallInteger, nullable=False),
    Column("new_seq", BigInteger),
    Column("new_id", Uuid),
    Column("reason", Text),
    Column("added", SmallInteger, nullable=False, server_default="0"),
    sqlite_with_rowid=False,
)
"""A Run of a plan. The primary key is the order in which the Runs are replayed."""


def _item_index(name: str, *columns: str, where: str | None = None) -> None:
    conditions: dict[str, Any] = {} if where is None else {"sqlite_where": text(where), "postgresql_where": text(where)}
    Index(name, *(replay_item.c[column] for column in columns), **conditions)


_item_index("replay_item_waiting", "replay", "at", "run_id", where="state = 0")
_item_index("replay_item_flight", "replay", "new_seq", where="state = 1")
_item_index("replay_item_run", "run_seq")

replay_read = Table(
    "replay_read",
    metadata,
    Column("replay", BigInteger, primary_key=True, autoincrement=False),
    Column("key", Uuid, primary_key=True),
    Column("at", BigInteger, primary_key=True, autoincrement=False),
    Column("run_id", Uuid, primary_key=True),
    Column("run_seq", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)
"""Which ended Runs of the Solution depend on which keys (hashes), for the time of one replay with a cascade."""

notify_mark = Table(
    "notify_mark",
    metadata,
    Column("automation_id", BigInteger, primary_key=True, autoincrement=False),
    Column("since", BigInteger, nullable=False),
    Column("failing", SmallInteger, nullable=False),
    Column("letters", BigInteger, nullable=False),
    Column("paused", SmallInteger, nullable=False),
    sqlite_with_rowid=False,
)
"""Up to where each Automation was looked at for what is to be told of it."""

notification = Table(
    "notification",
    metadata,
    _key("pk"),
    Column("automation_id", BigInteger, nullable=False),
    Column("target", Text, nullable=False),
    Column("event", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("body", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("next_at", BigInteger, nullable=False),
    Index("notification_due", "next_at"),
)
"""What is to be sent, until it is; where to stands in the Automation, and the address in a Secret."""
