"""A worker written against the older contract, as its authors would have: pika's BlockingConnection and urllib.

It knows nothing of the SDK, of attempts, of publications or of Maestro's queue types. What it does, in this order:
declares its queue, takes one message, looks at the Run's status, starts it without a body, logs, polls for a
cancellation while it works, finishes, and only then acknowledges.

Environment: AMQP_URL, QUEUE, API_URL, and API_KEY or TOKEN.
"""

import json
import os
import sys
import time
import urllib.error
import urllib.request

import pika

API = os.environ["API_URL"] + "/api/v1/worker/jobs"
QUEUE = os.environ["QUEUE"]
if "TOKEN" in os.environ:
    CREDENTIALS = {"Authorization": "Bearer " + os.environ["TOKEN"]}
else:
    CREDENTIALS = {"X-Worker-API-Key": os.environ["API_KEY"]}


def call(method, path, body=None):
    request = urllib.request.Request(
        f"{API}/{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={**CREDENTIALS, "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as response:
        return json.loads(response.read() or b"null")


def canceled(job_id):
    return call("GET", f"{job_id}/cancellation")["cancellation_requested"]


class Canceled(Exception):  # noqa: N818 - its authors called it so
    pass


def work(job_id, parameters):
    """`steps` of a hundredth of a second; `fail` is an error class."""
    for step in range(parameters.get("steps", 1)):
        if canceled(job_id):
            raise Canceled
        time.sleep(0.01)
        call("POST", f"{job_id}/log", {"level": "INFO", "message": f"step {step + 1}"})
    if parameters.get("fail"):
        raise RuntimeError(parameters["fail"])
    return {"summary": {"ok": parameters.get("steps", 1), "failed": 0, "no_data": 0, "skipped": 0}}


def handle(channel, method, properties, body):
    message = json.loads(body)
    job_id = message["job_id"]
    print("message", job_id, flush=True)
    if call("GET", f"{job_id}/status")["terminal"]:
        channel.basic_ack(method.delivery_tag)
        print("over", job_id, flush=True)
        return
    try:
        call("POST", f"{job_id}/start")
        print("started", job_id, flush=True)
        result = work(job_id, message["parameters"])
        call("POST", f"{job_id}/finish", {"status": "completed", "result": result})
        print("completed", job_id, flush=True)
    except Canceled:
        # Outside of any try: an answer that isn't 2xx would take the process down.
        call("POST", f"{job_id}/finish", {"status": "canceled", "result": {}})
        print("canceled", job_id, flush=True)
    except Exception as error:
        print("error", job_id, repr(error), flush=True)
        try:
            call("POST", f"{job_id}/log", {"level": "ERROR", "message": str(error)})
            result = {"error": str(error), "error_class": "UNKNOWN"}
            call("POST", f"{job_id}/finish", {"status": "failed", "result": result})
        except Exception as again:
            print("could not report", job_id, repr(again), flush=True)
    channel.basic_ack(method.delivery_tag)


def main():
    connection = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"]))
    channel = connection.channel()
    channel.queue_declare(QUEUE, durable=True, arguments={"x-dead-letter-exchange": "maestro.dlx"})
    channel.basic_qos(prefetch_count=1)
    channel.basic_consume(QUEUE, handle)
    print("ready", flush=True)
    try:
        channel.start_consuming()
    except KeyboardInterrupt:
        sys.exit(0)


if __name__ == "__main__":
    main()
