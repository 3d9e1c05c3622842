"""From the Automation object to what the run store needs to know of it."""

from __future__ import annotations

from maestro.resources import Automation
from maestro.runs.model import Registration, RunPolicy


def registration_of(automation: Automation) -> Registration:
    """The registration that an Automation's present spec asks for."""
    spec = automation.spec
    queue = spec.queue
    return Registration(
        uid=automation.metadata.uid,
        namespace=automation.metadata.namespace,
        name=automation.metadata.name,
        generation=automation.metadata.generation,
        solution=automation.solution,
        launch=spec.launch,
        queue=automation.queue_name,
        queue_arguments=automation.queue_arguments or {},
        parameters_in_message=queue.arguments is not None,
        script_path=spec.script_path,
        suspended=spec.suspend,
        deletion_policy=queue.deletion_policy,
        parameter_schema=spec.parameter_schema,
        default_parameters=spec.default_parameters or {},
        policy=_policy(automation),
    )


def _policy(automation: Automation) -> RunPolicy:
    run, history = automation.spec.run, automation.spec.history
    return RunPolicy(
        timeout=run.timeout.seconds,
        cancel_grace=run.cancel_grace.seconds,
        heartbeat_timeout=run.heartbeat_timeout.seconds,
        max_attempts=run.retry.attempts,
        backoff_initial=run.retry.backoff.initial.seconds,
        backoff_factor=run.retry.backoff.factor,
        backoff_max=run.retry.backoff.max.seconds,
        max_pending=run.max_pending,
        parallelism=run.parallelism,
        ordering_key=tuple(run.ordering_key or ()),
        on_key_failure=run.on_key_failure,
        pause_after_failures=run.pause_after_failures,
        succeeded_limit=history.succeeded.limit,
        succeeded_ttl=history.succeeded.ttl.seconds,
        failed_limit=history.failed.limit,
        failed_ttl=history.failed.ttl.seconds,
        log_lines=history.log_lines,
    )
