"""The function in functions-framework's own server, with Google's real clients."""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
import pytest

import build_notifier
from servekit.launch.keeper import die_with_parent
from servekit.launch.port import free_port
from tests.build_notifier.events import BUILD_ID, build, message
from tests.build_notifier.google_stand_ins import (
    HttpStandIn,
    LoggingStandIn,
    http_stand_in,
    logging_stand_in,
)
from tests.servekit.secrets.corpus import LINES as SECRET_LINES
from tests.servekit.secrets.corpus import TOKENS, sample

SOURCE = Path(str(build_notifier.__file__)).parent / "main.py"
SECRET = "hf_abcdefghijklmnopqrstuvwxyzABCDEFGH"  # noqa: S105  (nobody's)
LINES = [*(f"line {number}" for number in range(120)), f"login with {SECRET}", "ERROR: no space"]


@dataclass(frozen=True)
class Function:
    """The running server, and what stands around it."""

    url: str
    logging: LoggingStandIn
    gemini: HttpStandIn
    webhook: HttpStandIn

    def deliver(self, data: Any, *, legacy: bool = False) -> int:
        """Post a message as Pub/Sub's push does; return the status."""
        if legacy:
            context = {
                "eventId": "1",
                "timestamp": "2026-11-21T08:05:01Z",
                "eventType": "google.pubsub.topic.publish",
                "resource": {
                    "service": "pubsub.googleapis.com",
                    "name": "projects/acme/topics/cloud-builds",
                    "type": "type.googleapis.com/google.pubsub.v1.PubsubMessage",
                },
            }
            return self._post({"context": context, "data": data}, {})
        attributes = {
            "ce-id": "1",
            "ce-specversion": "1.0",
            "ce-type": "google.cloud.pubsub.topic.v1.messagePublished",
            "ce-source": "//pubsub.googleapis.com/projects/acme/topics/cloud-builds",
        }
        return self._post({"message": data, "subscription": "s"}, attributes)

    def _post(self, body: Any, headers: dict[str, str]) -> int:
        request = urllib.request.Request(  # noqa: S310
            self.url,
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json", **headers},
        )
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
                return int(answer.status)
        except urllib.error.HTTPError as refusal:
            with refusal:
                return refusal.code


def _wait_for(port: int, process: "subprocess.Popen[bytes]") -> None:
    # Google's clients take seconds to import on a busy machine.
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError("the function does not listen")


@contextmanager
def _serving(**environ: str) -> Iterator[str]:
    port = free_port()
    command = (sys.executable, "-m", "functions_framework", "--source", str(SOURCE))
    target = ("--target", "handle_build_notification", "--signature-type", "cloudevent")
    process = subprocess.Popen(  # noqa: S603
        (*command, *target, "--host", "127.0.0.1", "--port", str(port)),
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
            "THREADS": "8",
            **environ,
        },
        preexec_fn=die_with_parent,
    )
    try:
        _wait_for(port, process)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module", name="server")
def _server() -> Iterator[Function]:
    """One server for all tests: to start it takes seconds."""
    with (
        logging_stand_in() as logging,
        http_stand_in() as gemini,
        http_stand_in() as webhook,
        _serving(
            LOGGING_ENDPOINT=logging.endpoint,
            LOG_WAIT_S="2",
            LOG_LOOK_EVERY_S="0.1",
            MAX_LOG_LINES="100",
            ANALYZE="1",
            GEMINI_API_KEY="AIzaTest",
            GEMINI_BASE_URL=gemini.url,
            WEBHOOK_URL=f"{webhook.url}/T000/hook",
            WEBHOOK_TIMEOUT_S="0.5",
        ) as url,
    ):
        yield Function(url, logging, gemini, webhook)


@pytest.fixture(name="function")
def _function(server: Function, request: pytest.FixtureRequest) -> Function:
    """The server, with nothing left of other tests.  Builds are named after the test."""
    for stand_in in (server.gemini, server.webhook):
        stand_in.posted.clear()
        stand_in.status = 200
        stand_in.headers = {}
        stand_in.byte_every_s = 0.0
    text = {"parts": [{"text": "The disk is full. Ask for a larger one."}]}
    server.gemini.answer = {"candidates": [{"content": {"role": "model", **text}}]}
    server.logging.written.clear()
    server.logging.fail = None
    server.logging.hidden = 0
    server.logging.pages = 0
    server.logging.writes = 0
    server.logging.lines = {_name(request.node.name): LINES}
    return server


def _name(test: str) -> str:
    return f"{BUILD_ID}-{abs(hash(test))}"


@pytest.fixture(name="id")
def _id(request: pytest.FixtureRequest) -> str:
    return _name(request.node.name)


def test_failed_build_is_reported(function: Function, id: str) -> None:  # noqa: A002
    """A log entry and a webhook message: step, last lines, analysis, link; the secret nowhere."""
    assert function.deliver(message(build(id=id))) == 200

    (entry,) = function.logging.written
    report = dict(entry.json_payload)
    assert report["status"] == "FAILURE"
    assert report["failing_step"] == "build"
    assert report["last_lines"][-1] == "ERROR: no space"
    assert len(report["last_lines"]) == 20
    assert report["analysis"].startswith("The disk is full.")
    ((path, posted),) = function.webhook.posted
    assert path == "/T000/hook"
    assert "ERROR: no space" in json.dumps(posted)
    assert build()["logUrl"] in json.dumps(posted)
    ((asked, question),) = function.gemini.posted
    assert asked.endswith("/models/gemini-3.8-flash:generateContent")
    assert "line 22" in json.dumps(question)
    everything = json.dumps([list(report["last_lines"]), posted, question])
    assert "login with ***" in everything
    assert SECRET not in everything
    assert function.logging.pages >= 2


def test_no_secret_of_a_log_comes_out(function: Function, id: str) -> None:  # noqa: A002
    """120 kinds in log, step and detail: none in entry, webhook or prompt."""
    samples = [sample(template, 3) for template in (*TOKENS.values(), *SECRET_LINES.values())]
    for start in range(0, len(samples), 90):
        some = samples[start : start + 90]
        number = f"{id}-{start}"
        function.logging.lines[number] = [one.text for one in some]
        detail = {"detail": some[0].text}
        steps = [{"id": some[1].text, "name": "docker", "status": "FAILURE"}]
        failed = build(id=number, failureInfo=detail, steps=steps)
        assert function.deliver(message(failed)) == 200
    entries = [repr(entry) for entry in function.logging.written]
    posted = (*function.webhook.posted, *function.gemini.posted)
    out = "\n".join((*entries, json.dumps(posted)))

    secrets = [secret for one in samples for secret in one.secrets if len(secret) > 5]
    leaked = [secret for secret in secrets if secret in out]
    assert leaked == []
    assert "AIzaTest" not in out


@pytest.mark.parametrize("status", ["TIMEOUT", "INTERNAL_ERROR", "EXPIRED"])
def test_every_bad_end_is_reported(function: Function, id: str, status: str) -> None:  # noqa: A002
    """Not only a step that failed."""
    assert function.deliver(message(build(status, id=id))) == 200

    assert [entry.insert_id for entry in function.logging.written] == [f"{id}-{status}"]


@pytest.mark.parametrize("status", ["QUEUED", "WORKING", "SUCCESS", "CANCELLED", "NEXT_YEARS"])
def test_other_states_are_acknowledged(function: Function, id: str, status: str) -> None:  # noqa: A002
    """Most messages of the topic are no news; an unknown state is none either."""
    assert function.deliver(message(build(status, id=id))) == 200

    assert function.logging.written == []
    assert function.webhook.posted == []


def test_second_delivery_says_nothing_new(function: Function, id: str) -> None:  # noqa: A002
    """Pub/Sub delivers at least once."""
    function.deliver(message(build(id=id)))
    function.deliver(message(build(id=id)))

    assert len(function.webhook.posted) == 1
    assert len(function.logging.written) == 1


def test_report_of_another_instance_counts(function: Function, id: str) -> None:  # noqa: A002
    """What one wrote, another finds in the log."""
    with _serving(LOGGING_ENDPOINT=function.logging.endpoint, LOG_WAIT_S="0") as url:
        other = Function(url, function.logging, function.gemini, function.webhook)
        assert other.deliver(message(build(id=id))) == 200
    assert len(function.logging.written) == 1

    assert function.deliver(message(build(id=id))) == 200

    assert function.webhook.posted == []


def test_legacy_background_event_is_understood(function: Function, id: str) -> None:  # noqa: A002
    """As 1st-generation functions got it."""
    assert function.deliver(message(build(id=id)), legacy=True) == 200

    assert len(function.logging.written) == 1


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"data": "not base64!"},
        message("not json"),
        message([1, 2]),
        message({"status": "FAILURE"}),
        message({"id": {"nested": 1}}),
    ],
)
def test_malformed_message_is_acknowledged(function: Function, data: Any) -> None:
    """To have it delivered again would not make it better."""
    assert function.deliver(data) == 200

    assert function.logging.written == []


def test_log_that_lags_is_waited_for(function: Function, id: str) -> None:  # noqa: A002
    """The last line is often the one that matters, and the last to arrive."""
    function.logging.hidden = 1

    function.deliver(message(build(id=id)))

    (entry,) = function.logging.written
    assert dict(entry.json_payload)["last_lines"][-1] == "ERROR: no space"


def test_passing_fault_of_google_is_retried(function: Function, id: str) -> None:  # noqa: A002
    """500 has the message delivered again, and then it is reported."""
    function.logging.fail = grpc.StatusCode.RESOURCE_EXHAUSTED
    assert function.deliver(message(build(id=id))) == 500
    function.logging.fail = None

    assert function.deliver(message(build(id=id))) == 200

    assert len(function.webhook.posted) == 1


def test_webhook_that_is_down_is_retried(function: Function, id: str) -> None:  # noqa: A002
    """The log entry is there at the first attempt, once; the analysis is paid for once."""
    function.webhook.status = 503
    for _ in range(3):
        assert function.deliver(message(build(id=id))) == 500
        assert len(function.logging.written) == 1
    function.webhook.status = 200

    assert function.deliver(message(build(id=id))) == 200
    assert function.deliver(message(build(id=id))) == 200

    assert function.logging.writes == 1
    assert len(function.gemini.posted) == 1
    assert len(function.webhook.posted) == 4


@pytest.mark.parametrize("deliveries", [4, 33, 100])
def test_equal_messages_at_once_are_one_report(
    function: Function,
    id: str,  # noqa: A002
    deliveries: int,
) -> None:
    """One post, one analysis, one entry; every delivery is acknowledged."""
    with ThreadPoolExecutor(deliveries) as pool:
        tasks = [pool.submit(function.deliver, message(build(id=id))) for _ in range(deliveries)]
        answers = [task.result() for task in tasks]

    assert answers == [200] * deliveries
    assert len(function.webhook.posted) == 1
    assert len(function.gemini.posted) == 1
    assert function.logging.writes == 1


def test_webhook_that_is_slow_ends_at_its_timeout(function: Function, id: str) -> None:  # noqa: A002
    """An answer byte by byte holds nothing up; the entry stands, and the message comes again."""
    function.webhook.byte_every_s = 0.1

    started = time.monotonic()
    assert function.deliver(message(build(id=id))) == 500

    assert time.monotonic() - started < 5
    assert function.logging.writes == 1


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_webhook_that_redirects_is_not_followed(
    function: Function,
    id: str,  # noqa: A002
    status: int,
) -> None:
    """A report goes to the address that was set, and to no other."""
    with http_stand_in() as elsewhere:
        function.webhook.status = status
        function.webhook.headers = {"Location": f"{elsewhere.url}/stolen"}

        assert function.deliver(message(build(id=id))) == 200

        assert elsewhere.posted == []
    assert function.logging.writes == 1


def test_refused_entry_is_no_reason_to_deliver_again(function: Function, id: str) -> None:  # noqa: A002
    """Without permission there will be none at the next delivery; the webhook is told."""
    function.logging.fail = grpc.StatusCode.PERMISSION_DENIED

    assert function.deliver(message(build(id=id))) == 200

    assert len(function.webhook.posted) == 1


def test_webhook_that_is_gone_is_left(function: Function, id: str) -> None:  # noqa: A002
    """404 will be 404 tomorrow; the log entry is written all the same."""
    function.webhook.status = 404

    assert function.deliver(message(build(id=id))) == 200

    assert len(function.logging.written) == 1


def test_gemini_that_fails_holds_nothing_up(function: Function, id: str) -> None:  # noqa: A002
    """The report says why it has no analysis."""
    function.gemini.status = 403

    assert function.deliver(message(build(id=id))) == 200

    (entry,) = function.logging.written
    assert dict(entry.json_payload)["analysis"] == "No analysis: Gemini answers 403."
