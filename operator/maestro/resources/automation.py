"""The kind Automation: a unit of work that can be run, with its parameters, its queue, its workers and its policies."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, StringConstraints

from maestro.resources import names, pod
from maestro.resources.conditions import Conditions
from maestro.resources.duration import Duration
from maestro.resources.fields import (
    ATOMIC,
    SET,
    FreeObject,
    Key,
    ObjectName,
    RunId,
    ShortText,
    SolutionName,
    Text,
    section,
)
from maestro.resources.model import Model, Resource
from maestro.resources.rules import extra, forbidden, immutable, immutable_optional, object_name, rule

_NOT_IN_JOB_MODE = "an Automation with launch: Job has no queue and no worker Deployment"


class Queue(Model):
    """The queue that the Automation's messages go through."""

    model_config = ConfigDict(
        json_schema_extra=extra(
            immutable_optional("name"),
            immutable_optional("type"),
            immutable_optional("arguments"),
            rule(
                "!has(self.arguments) || has(self.name)",
                "arguments need a name: they are for workers that declare a queue of their own",
                field=".arguments",
            ),
            forbidden(
                "!has(self.arguments) || !has(self.type)",
                "type and arguments exclude each other; put x-queue-type among the arguments",
                field=".type",
            ),
        )
    )

    name: Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^[!-~]+$")] | None = Field(
        None,
        description="The queue's name on the broker. Defaults to maestro.<namespace>.<name>, which status.queue.name "
        "shows. Two Automations may not claim one queue: the later one is Stalled with reason QueueTaken. Immutable; "
        "names that begin with maestro. or amq. are refused.",
        json_schema_extra=extra(
            rule(
                "!self.startsWith('maestro.') && !self.startsWith('amq.')",
                "name must not begin with 'maestro.' or 'amq.': these names belong to Maestro and to the broker",
            )
        ),
    )
    type: Literal["quorum", "classic"] | None = Field(
        None,
        description="The queue's type: quorum is replicated and survives the loss of a broker node, classic lives on "
        "one node. Defaults to quorum, unless arguments are given. Immutable.",
    )
    arguments: FreeObject | None = Field(
        None,
        description="Arguments for workers that declare the queue themselves: the queue gets exactly these, nothing "
        "is added, and the workers' broker user may then configure that one name. Messages of such a queue carry the "
        "Run's parameters. Needs name; defaults to none; immutable.",
    )
    deletion_policy: Literal["Retain", "IfEmpty", "Delete"] = Field(
        "IfEmpty",
        description="What happens to the queue once the Automation is gone. Delete: it goes at once, with what is in "
        "it. IfEmpty, the default: it goes as soon as nothing is left in it that Maestro didn't send. Retain: it "
        "stays.",
    )


class Autoscaling(Model):
    """How many pods run, by what waits and runs."""

    model_config = ConfigDict(
        json_schema_extra=extra(
            rule(
                "self.minReplicas <= self.maxReplicas",
                "minReplicas must not be greater than maxReplicas",
                field=".minReplicas",
            )
        )
    )

    min_replicas: Annotated[int, Field(ge=0, le=1000)] = Field(
        0, description="The fewest pods. Defaults to 0: with nothing to do there is no pod."
    )
    max_replicas: Annotated[int, Field(ge=1, le=1000)] = Field(description="The most pods.")
    runs_per_replica: Annotated[int, Field(ge=1, le=100000)] | None = Field(
        None,
        description="How many waiting and running Runs one pod stands for: with 40 of them and 10 here, 4 pods run. "
        "Defaults to worker.concurrency.",
    )
    scale_down_delay: Duration = Field(
        Duration("5m"),
        description="How long fewer pods must have been enough before any is taken away. Defaults to 5m.",
    )


class Worker(Model):
    """The pods that do the work."""

    image: Annotated[str, StringConstraints(min_length=1, max_length=1024, pattern=r"^\S+$")] | None = Field(
        None,
        description="The container image. Without one there is no Deployment: the workers live elsewhere and take the "
        "broker's address and password from the Secret <name>-broker. With launch: Job an image is needed; without it "
        "the Automation is Stalled with reason NoWorkerImage.",
    )
    command: (
        Annotated[
            list[Annotated[str, StringConstraints(max_length=32768)]],
            Field(max_length=256, json_schema_extra=ATOMIC),
        ]
        | None
    ) = Field(None, description="The program in place of the image's entrypoint, not run in a shell.")
    args: (
        Annotated[
            list[Annotated[str, StringConstraints(max_length=131072)]],
            Field(max_length=512, json_schema_extra=ATOMIC),
        ]
        | None
    ) = Field(None, description="Arguments in place of the image's own; $(NAME) stands for an environment variable.")
    env: pod.Env | None = Field(
        None, description="Environment variables of the container, beside those that Maestro sets (MAESTRO_…)."
    )
    env_from: pod.EnvFrom | None = Field(
        None, description="ConfigMaps and Secrets whose keys all become environment variables."
    )
    resources: pod.Resources | None = Field(
        None, description="The CPU and memory that the container needs and may use, as in a Pod."
    )
    service_account_name: ObjectName | None = Field(
        None,
        description="The ServiceAccount that the pods run as. Defaults to one of the Automation's own name, without "
        "rights, which Maestro makes.",
    )
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = Field(
        None,
        description="When the image is pulled. Defaults as in a Pod: Always for the tag latest, else IfNotPresent.",
    )
    image_pull_secrets: pod.ImagePullSecrets | None = Field(
        None, description="Secrets with the passwords of the registries that the image is pulled from."
    )
    template: pod.PodTemplate | None = Field(
        None,
        description="A partial PodTemplateSpec that is merged over what Maestro makes, by Kubernetes' strategic merge; "
        "the worker's container is called worker. For volumes, node selectors, tolerations, sidecars and whatever has "
        "no field here. One that Kubernetes doesn't take makes the Automation Stalled with reason InvalidTemplate.",
        json_schema_extra=extra(
            forbidden(
                f"!has(self.metadata) || !has(self.metadata.labels) || !('{names.LABEL_AUTOMATION}' in "
                f"self.metadata.labels)",
                f"metadata.labels may not have {names.LABEL_AUTOMATION}: the Deployment selects its pods by it",
                field=".metadata.labels",
            )
        ),
    )
    replicas: Annotated[int, Field(ge=0, le=1000)] = Field(
        1,
        description="How many pods run. Defaults to 1. kubectl scale writes it; it is ignored while autoscaling is set "
        "and while the Automation is suspended.",
    )
    concurrency: Annotated[int, Field(ge=1, le=1000)] = Field(
        1, description="How many Runs one pod works on at a time. Defaults to 1."
    )
    autoscaling: Autoscaling | None = Field(
        None,
        description="Lets the number of pods follow what waits and runs, as the run store counts it. Defaults to none: "
        "replicas says how many.",
    )
    drain_timeout: Duration = Field(
        Duration("15m"),
        description="How long a pod that is told to stop may finish what it runs; it is the pod's termination grace. "
        "What isn't done by then goes to another pod without costing an attempt. Defaults to 15m.",
    )


class Backoff(Model):
    """The waits between the attempts of a Run."""

    model_config = ConfigDict(
        json_schema_extra=extra(
            # `has`: the API server tries the rule on the default `{}` too, before the fields' own defaults are in it.
            rule(
                "!has(self.initial) || !has(self.max) || duration(self.initial) <= duration(self.max)",
                "initial must not be longer than max",
                field=".initial",
            )
        )
    )

    initial: Duration = Field(Duration("10s"), description="The wait before the second attempt. Defaults to 10s.")
    factor: Annotated[float, Field(ge=1, le=100)] = Field(
        2, description="What each further wait is multiplied by. Defaults to 2; 1 keeps the waits equal."
    )
    max: Duration = Field(Duration("10m"), description="The longest wait. Defaults to 10m.")


class Retry(Model):
    """What happens to a Run that failed for a technical reason."""

    attempts: Annotated[int, Field(ge=1, le=1000)] = Field(
        3,
        description="How often a Run is tried in all; 1 means never again. Defaults to 3. A failure that the worker "
        "calls business, and any failure that a worker of the older contract reports, is final.",
    )
    backoff: Backoff = section(
        Backoff, "The waits between attempts. They are kept in the run store, so any length is fine."
    )


class RunPolicy(Model):
    """The rules for the Automation's Runs."""

    timeout: Duration = Field(
        Duration("4h"),
        description="How long one attempt may take. Past it the Run is canceled, and fails with reason Timeout once "
        "cancelGrace has passed too. Defaults to 4h.",
    )
    cancel_grace: Duration = Field(
        Duration("30s"),
        description="How long a worker has for coming to an end after its Run ran into timeout. Defaults to 30s.",
    )
    heartbeat_timeout: Duration = Field(
        Duration("5m"),
        description="After so long without a sign of life (a heartbeat, a log line, progress) the attempt counts as "
        "lost, and the Run is tried again where attempts are left. Defaults to 5m.",
    )
    retry: Retry = section(Retry, "When and how often a Run that failed is tried again.")
    parallelism: Annotated[int, Field(ge=1, le=100000)] | None = Field(
        None,
        description="How many Runs may run at once, over all pods and Jobs. Defaults to no limit but what the workers "
        "can take.",
    )
    ordering_key: Annotated[list[Key], Field(min_length=1, max_length=16, json_schema_extra=ATOMIC)] | None = Field(
        None,
        description="Names of parameters. Runs with equal values in all of them run one after the other, in the order "
        "in which they were accepted and with their retries; others run in parallel. Defaults to none: no order.",
    )
    on_key_failure: Literal["Continue", "Block"] = Field(
        "Continue",
        description="What becomes of the Runs behind one that failed, where orderingKey is set. Continue, the default: "
        "the next one runs. Block: the key waits until a retry of the failed Run succeeds or somebody releases the "
        "key.",
    )
    max_pending: Annotated[int, Field(ge=1, le=1_000_000_000)] = Field(
        1_000_000,
        description="How many Runs may wait. Past it new ones are refused with status 429, and ticks of Schedules are "
        "skipped with reason Backlog. Defaults to 1000000.",
    )
    pause_after_failures: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        20,
        description="After so many Runs in a row that failed technically nothing more is dispatched, and the condition "
        "Paused says so. A change of the worker, or the annotation maestro-operator.io/unpause, lets it go on. "
        "Defaults to 20; 0 never pauses.",
    )


class Retention(Model):
    """How long ended Runs are kept."""

    limit: Annotated[int, Field(ge=0, le=100_000_000)] = Field(
        1000, description="How many are kept at most, the newest ones. Defaults to 1000."
    )
    ttl: Duration = Field(Duration("720h"), description="How long each is kept at most. Defaults to 720h, 30 days.")


class FailedRetention(Retention):
    """How long failed and canceled Runs are kept."""

    ttl: Duration = Field(Duration("2160h"), description="How long each is kept at most. Defaults to 2160h, 90 days.")


class History(Model):
    """What is kept of Runs that ended."""

    succeeded: Retention = section(Retention, "How many succeeded Runs are kept, and how long.")
    failed: FailedRetention = section(
        FailedRetention, "How many failed and canceled Runs are kept, and how long. The last failure is always kept."
    )
    log_lines: Annotated[int, Field(ge=0, le=1_000_000)] = Field(
        10_000, description="How many log lines of a Run are kept: the first, and one that says so. Defaults to 10000."
    )


class SecretKey(Model):
    """A key of a Secret."""

    name: ObjectName = Field(description="The Secret's name, in the Automation's namespace.")
    key: Annotated[str, StringConstraints(min_length=1, max_length=253)] = Field(description="The key in the Secret.")


class NotificationUrl(Model):
    """Where a notification goes."""

    secret_key_ref: SecretKey = Field(
        description="The Secret's key that holds an Apprise URL. The installation says which Secrets Maestro may read."
    )


class Notification(Model):
    """Somebody who is told of something."""

    name: Annotated[str, StringConstraints(max_length=63, pattern=r"^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$")] = Field(
        description="The entry's name; at most one entry has it."
    )
    events: Annotated[
        list[Literal["Failed", "Recovered", "DeadLettered", "Paused"]],
        Field(min_length=1, max_length=4, json_schema_extra=SET),
    ] = Field(
        description="What is told. Failed: a Run failed for good. Recovered: a Run succeeded after a failed one. "
        "DeadLettered: the queue gave a message up. Paused: so many failures that nothing more is dispatched."
    )
    url: NotificationUrl = Field(description="Where it is told.")


_KEYS_NOTE = "Parameters may stand in them, as in price-list/$(params.list)."


class AutomationSpec(Model):
    """What the Automation is to be."""

    model_config = ConfigDict(
        json_schema_extra=extra(
            *(
                forbidden(f"self.launch != 'Job' || {holds}", f"{path} {must}: {_NOT_IN_JOB_MODE}", field=f".{path}")
                for path, must, holds in (
                    ("queue.name", "may not be set", "!has(self.queue.name)"),
                    ("queue.type", "may not be set", "!has(self.queue.type)"),
                    ("queue.arguments", "may not be set", "!has(self.queue.arguments)"),
                    (
                        "queue.deletionPolicy",
                        "may only be IfEmpty",
                        "!has(self.queue.deletionPolicy) || self.queue.deletionPolicy == 'IfEmpty'",
                    ),
                    ("worker.replicas", "may only be 1", "!has(self.worker.replicas) || self.worker.replicas == 1"),
                    (
                        "worker.concurrency",
                        "may only be 1",
                        "!has(self.worker.concurrency) || self.worker.concurrency == 1",
                    ),
                    ("worker.autoscaling", "may not be set", "!has(self.worker.autoscaling)"),
                )
            )
        )
    )

    solution: SolutionName | None = Field(
        None,
        description="The Solution that the Automation belongs to: the Automations that share one data domain and are "
        "blocked and replayed as a whole. Belongs to one namespace. Defaults to the namespace's name; "
        "status.solution shows it.",
    )
    display_name: ShortText | None = Field(None, description="A name for people, shown in place of metadata.name.")
    description: Text | None = Field(None, description="What the Automation does, for people.")
    script_path: Annotated[str, StringConstraints(max_length=1024)] | None = Field(
        None, description="Handed on, as script_path, to workers of the older contract. Maestro doesn't read it."
    )
    suspend: bool = Field(
        False,
        description="Whether nothing new is dispatched or launched: Runs are accepted and wait, what runs goes on, and "
        "idle workers are scaled to 0. Defaults to false.",
    )
    launch: Literal["Queue", "Job"] = Field(
        "Queue",
        description="How a Run reaches a worker. Queue, the default: through a queue, to the pods of a worker "
        "Deployment. Job: a Kubernetes Job for each Run, from any image and without AMQP, where exit code 0 is "
        "success; queue, worker.replicas, worker.concurrency and worker.autoscaling are then refused. Immutable.",
        json_schema_extra=extra(immutable("launch")),
    )
    parameter_schema: FreeObject | None = Field(
        None,
        description="A JSON Schema (2020-12) for the parameters of a Run, enforced wherever one enters; a refusal "
        "names the path and the rule. Its default values apply, and values marked writeOnly are shown nowhere. A $ref "
        "to the outside is refused. Defaults to none: any object is taken.",
    )
    default_parameters: FreeObject | None = Field(
        None, description="Parameters that a Run has where it doesn't give its own. Defaults to none."
    )
    queue: Queue = section(Queue, "The queue of a launch: Queue Automation. Defaults to a quorum queue of its own.")
    worker: Worker = section(Worker, "The pods that do the work.")
    run: RunPolicy = section(
        RunPolicy, "The rules for Runs: how long they may take, how often they are tried, what runs beside what."
    )
    reads: Annotated[list[Key], Field(max_length=256, json_schema_extra=SET)] | None = Field(
        None, description=f"Keys of the data that a Run depends on; a replay cascades along them. {_KEYS_NOTE}"
    )
    writes: Annotated[list[Key], Field(max_length=256, json_schema_extra=SET)] | None = Field(
        None,
        description=f"Keys of the data that a Run changes; a replay makes stale whatever reads them. {_KEYS_NOTE}",
    )
    history: History = section(History, "How many Runs are kept after their end, and how long.")
    notifications: (
        Annotated[
            list[Notification],
            Field(max_length=32, json_schema_extra=extra(list_type="map", list_map_keys=["name"])),
        ]
        | None
    ) = Field(None, description="Who is told of failures and such. What a Run itself asks for in notify comes on top.")


class QueueStatus(Model):
    """The queue as the broker reports it."""

    name: ShortText | None = Field(None, description="The queue's name on the broker.")
    messages: int | None = Field(None, description="How many messages are in it, delivered ones included.")
    consumers: int | None = Field(None, description="How many consumers it has.")


class RunCounts(Model):
    """How many Runs there are."""

    waiting: int | None = Field(None, description="Runs that wait for a worker or for their next attempt.")
    held: int | None = Field(None, description="Runs held back while the Solution's gateway is blocked.")
    running: int | None = Field(None, description="Runs that a worker holds.")
    succeeded_24h: int | None = Field(
        None, alias="succeeded24h", description="Runs that succeeded within the last 24 hours."
    )
    failed_24h: int | None = Field(None, alias="failed24h", description="Runs that failed within the last 24 hours.")
    dead_lettered: int | None = Field(
        None, description="Messages that the queue gave up and nobody has redriven or discarded yet."
    )


class LastRun(Model):
    """The Run that changed last."""

    id: RunId | None = Field(None, description="The Run's id.")
    state: ShortText | None = Field(None, description="The Run's state, such as Running, Succeeded or Failed.")
    started_at: datetime | None = Field(None, description="When its last attempt began.")
    finished_at: datetime | None = Field(None, description="When it ended; absent while it runs.")


class RecentFailure(Model):
    """A Run that failed."""

    id: RunId = Field(description="The Run's id.")
    reason: ShortText | None = Field(None, description="Why it failed, in a word.")
    at: datetime = Field(description="When it failed.")


class AutomationStatus(Model):
    """What the Automation is, as its controller last saw it."""

    observed_generation: int = Field(
        -1, description="The metadata.generation that the status speaks of; -1 while nobody has looked at the object."
    )
    conditions: Conditions = Field(
        default_factory=list,
        description="Ready, QueueReady, WorkersReady, GatewayBlocked and Paused; Reconciling while Maestro works on "
        "it, Stalled where somebody has to change something.",
    )
    solution: ShortText | None = Field(None, description="The Solution that the Automation belongs to.")
    queue: QueueStatus | None = Field(None, description="The queue as the broker reports it.")
    replicas: int | None = Field(None, description="How many worker pods there are.")
    ready_replicas: int | None = Field(None, description="How many worker pods are ready.")
    selector: Annotated[str, StringConstraints(max_length=1024)] | None = Field(
        None, description="The label selector of the worker pods, for kubectl scale and autoscalers."
    )
    runs: RunCounts | None = Field(None, description="How many Runs there are, at most half a minute old.")
    last_run: LastRun | None = Field(None, description="The Run that changed last.")
    recent_failures: Annotated[list[RecentFailure], Field(max_length=5, json_schema_extra=ATOMIC)] | None = Field(
        None, description="The last five Runs that failed, the newest first."
    )
    last_handled_unpause: ShortText | None = Field(
        None, description="The value of the annotation maestro-operator.io/unpause that was last acted on."
    )


class Automation(Resource):
    """A unit of work that can be run: its parameters, its queue, its workers and its policies."""

    model_config = ConfigDict(json_schema_extra=extra(object_name(names.MAX_NAME)))

    kind: Literal["Automation"] = "Automation"
    spec: AutomationSpec = Field(description="What the Automation is to be; written by people and Git.")
    status: AutomationStatus = Field(
        default_factory=AutomationStatus,
        description="What the Automation is, as its controller last saw it. Only Maestro writes it.",
        json_schema_extra={"default": {"observedGeneration": -1}},
    )

    @property
    def solution(self) -> str:
        """The Solution's name: the one given, else the namespace's."""
        return self.spec.solution or self.metadata.namespace

    @property
    def solution_id(self) -> str:
        """`<namespace>.<solution>`."""
        return names.solution_id(self.metadata.namespace, self.solution)

    @property
    def queue_name(self) -> str | None:
        """The queue's name on the broker; None with `launch: Job`, which has no queue."""
        if self.spec.launch == "Job":
            return None
        return self.spec.queue.name or names.queue(self.metadata.namespace, self.metadata.name)

    @property
    def queue_arguments(self) -> dict[str, object] | None:
        """The arguments that the queue is declared with; None with `launch: Job`."""
        if self.spec.launch == "Job":
            return None
        if self.spec.queue.arguments is not None:
            return dict(self.spec.queue.arguments)
        return {"x-queue-type": self.spec.queue.type or "quorum"}
