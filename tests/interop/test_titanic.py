"""Titanic (RFC 9) as zguide's clients speak it, over one REQ socket and MDP/0.1."""

import re
import time

import pytest

import mdp
from broker import ANY_PORT
from process import wait_until
from tasks import Tasks


class Titanic:
    """The three calls of zguide's ticlient, which compare the whole status frame."""

    def __init__(self, broker):
        self.broker = broker

    def call(self, service, *body):
        client = mdp.Client(self.broker.context, self.broker.endpoint, req=True)
        try:
            return client.call(service, *body)
        finally:
            client.close()

    def request(self, service, *body):
        status, uuid = self.call("titanic.request", service, *body)
        assert status == b"200" and re.fullmatch(rb"[0-9a-f]{32}", uuid), (status, uuid)
        return uuid

    def reply(self, uuid):
        return self.call("titanic.reply", uuid)

    def await_reply(self, uuid, timeout=15.0):
        def ended():
            answer = self.reply(uuid)
            return answer if answer != [b"300"] else None

        return wait_until(ended, f"a reply to {uuid}", timeout, 0.03)

    def close(self, uuid):
        return self.call("titanic.close", uuid)[0]


@pytest.fixture
def titanic(broker):
    return Titanic(broker)


def test_request_reply_close(broker, titanic):
    broker.serve("echo")
    uuid = titanic.request("echo", b"Hello world", b"", b"\xff")
    assert titanic.await_reply(uuid) == [b"200", b"Hello world", b"", b"\xff"]
    assert titanic.reply(uuid) == [b"200", b"Hello world", b"", b"\xff"], "not deleted by reading"
    assert titanic.close(uuid) == b"200"
    assert titanic.close(uuid) == b"200", "idempotent"
    assert titanic.reply(uuid)[0] == b"400"
    assert titanic.close(b"0" * 32) == b"200", "also for what never was"


def test_a_request_waits_for_its_service(broker, titanic):
    waits = [titanic.request(f"svc{n}", b"x") for n in range(3)]
    assert [titanic.reply(uuid) for uuid in waits] == [[b"300"]] * 3
    # A service without workers holds up no other.
    broker.serve("svc1", lambda body: [b"one"])
    assert titanic.await_reply(waits[1]) == [b"200", b"one"]
    assert titanic.reply(waits[0]) == [b"300"]
    broker.serve("svc0", lambda body: [b"zero"])
    assert titanic.await_reply(waits[0]) == [b"200", b"zero"]
    assert titanic.close(waits[2]) == b"200"
    assert titanic.reply(waits[2])[0] == b"400"
    worker = broker.idle_worker("svc2")
    worker.idle()


def test_kill_9_at_every_step(broker, titanic):
    """The broker dies before the service is there, while it works, and before the reply is read."""
    uuid = titanic.request("slow", b"precious")
    broker.kill()
    broker.restart()
    assert titanic.reply(uuid) == [b"300"]
    worker = broker.worker("slow")
    job = worker.take(timeout=15.0)
    assert job.body == [b"precious"]
    broker.kill()
    worker.close()
    broker.restart()
    worker = broker.worker("slow")
    job = worker.take(timeout=15.0)
    assert job.body == [b"precious"]
    worker.answer(job, b"done")
    assert titanic.await_reply(uuid) == [b"200", b"done"]
    broker.kill()
    broker.restart()
    assert titanic.reply(uuid) == [b"200", b"done"]
    assert titanic.close(uuid) == b"200"
    broker.kill()
    broker.restart()
    assert titanic.reply(uuid)[0] == b"400"


def test_a_worker_that_dies_costs_nothing(broker, titanic):
    worker = broker.idle_worker("slow")
    uuid = titanic.request("slow", b"x")
    worker.take(timeout=15.0)
    worker.close()
    broker.serve("slow", lambda body: [b"done"])
    assert titanic.await_reply(uuid) == [b"200", b"done"]


def test_a_job_longer_than_any_poll_is_run_once(broker, titanic):
    runs = []

    def slow(body):
        runs.append(body)
        time.sleep(2.5)
        return [b"done"]

    broker.serve("slow", slow)
    uuid = titanic.request("slow", b"x")
    assert titanic.await_reply(uuid) == [b"200", b"done"]
    assert len(runs) == 1


def test_names_that_are_none_are_unknown_and_touch_no_file(broker, titanic):
    (broker.directory / "victim").write_text("still here")
    broker.serve("echo")
    uuid = titanic.request("echo", b"x")
    titanic.await_reply(uuid)
    guessed = uuid[:16] + b"0" * 16
    for name in (b"", b"../victim", b"\xff" * 32, b"g" * 32, uuid[:31], uuid + b"0", guessed):
        assert titanic.reply(name)[0] == b"400", name
        assert titanic.close(name) == b"200", name
    assert titanic.reply(uuid) == [b"200", b"x"], "nobody closes what they cannot name"
    assert (broker.directory / "victim").read_text() == "still here"


def test_bad_requests(broker, titanic):
    for body in ((), (b"",), (b"\xff", b"x"), (b"mmi.service", b"x"), (b"titanic.request", b"x")):
        status, why = titanic.call("titanic.request", *body)
        assert status == b"400" and why, body
    worker = broker.worker("titanic.request")
    worker.expect_disconnect()
    # A request without a body is one empty frame, as everywhere.
    broker.serve("echo")
    assert titanic.await_reply(titanic.request("echo")) == [b"200", b""]


def test_what_fails_is_tried_again(broker, titanic):
    tasks = Tasks(broker)
    uuid = titanic.request("bad", b"x")
    id = int(uuid[:16], 16)
    worker = broker.worker("bad")
    job = worker.take(timeout=15.0)
    worker.answer(job, b"MAITRED-FAILED", b"exit 1")
    wait_until(lambda: tasks.show(id).get("last_error") == "exit 1", "the attempt failed")
    assert titanic.reply(uuid) == [b"300"], "it is tried again"
    assert "secret" not in str(tasks.show(id)), "whoever looks cannot name it"
    tasks.good("DELETE", f"/v1/tasks/{id}")
    assert titanic.reply(uuid)[0] == b"400"


def test_what_comes_to_nothing_is_an_internal_error(broker, titanic):
    """A reply that is too large to be kept ends the request: 500, and why."""
    broker.serve("huge", lambda body: [b"x" * (17 << 20)])
    uuid = titanic.request("huge", b"x")
    status, why = titanic.await_reply(uuid)
    assert status == b"500" and b"result" in why
    assert titanic.close(uuid) == b"200"
    assert titanic.reply(uuid)[0] == b"400"


def test_requests_go_on_through_kills(start):
    """Acknowledged requests are all answered in the end, each with its own reply."""
    broker = start()
    titanic = Titanic(broker)
    sent = {}
    for n in range(5):
        for m in range(6):
            body = f"{n}-{m}".encode()
            sent[titanic.request("echo", body)] = body
        broker.kill()
        broker.restart()
    worker = broker.serve("echo")
    for uuid, body in sent.items():
        assert titanic.await_reply(uuid, timeout=30.0) == [b"200", body]
    assert worker is not None and ANY_PORT
