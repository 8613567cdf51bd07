"""Durable tasks: enqueued, claimed and settled over HTTP, Majordomo and the command line.

Whatever was answered must be there after `kill -9`; the ledgers here are the tests' own.
"""

import base64
import json
import random
import subprocess
import threading
import time

import pytest

import tasks as surface
from broker import binary, quiet_environment
from process import Child, wait_until
from tasks import Tasks


@pytest.fixture
def tasks(broker):
    return Tasks(broker)


def maitred(broker, *arguments, stdin=None):
    environment = quiet_environment() | {"MAITRED_HTTP": broker.http_url}
    return subprocess.run(
        [binary(), *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        input=stdin,
        stdin=None if stdin is not None else subprocess.DEVNULL,
        timeout=30,
        cwd=broker.directory,
    )


def test_a_task_survives_the_end_of_everything(broker, tasks):
    """Enqueued, killed, claimed, killed, claimed again at once, completed, killed: still done."""
    answer = tasks.ask("POST", "/v1/tasks/mail", b"to: all")
    assert answer.status == 201 and answer.json()["level"] == "durable"
    id = answer.json()["id"]
    assert answer.headers["location"] == f"/v1/tasks/{id}"
    for attempt in (1, 2):
        broker.kill()
        broker.restart()
        lease = tasks.one("mail")
        assert (lease["id"], lease["payload"], lease["attempt"]) == (id, "to: all", attempt)
    assert tasks.complete(lease, b"sent")["state"] == "done"
    broker.kill()
    broker.restart()
    shown = tasks.show(id)
    assert (shown["state"], shown["result"]) == ("done", "sent")
    assert tasks.claim("mail") == []
    assert tasks.complete(lease, b"sent")["repeated"]


def test_payloads_that_are_no_text_come_in_base64(tasks):
    raw = bytes(range(256))
    tasks.enqueue("image", raw, headers={"Content-Type": "image/x"})
    lease = tasks.one("image")
    assert "payload" not in lease and base64.b64decode(lease["payload_base64"]) == raw
    assert lease["content_type"] == "image/x"
    # A result takes any Content-Type, or none.
    tasks.complete(lease, raw, headers={"Content-Type": "a thing of my own; x"})
    assert base64.b64decode(tasks.show(lease["id"])["result_base64"]) == raw
    assert tasks.enqueue("empty") and tasks.one("empty")["payload"] == ""


def test_an_idempotency_key_makes_one_task(broker, tasks):
    id = tasks.enqueue("mail", b"x", key="order 7")
    again = tasks.ask("POST", "/v1/tasks/mail", b"x", headers={"Idempotency-Key": "order 7"})
    assert (again.status, again.json()["id"]) == (200, id)
    other = {"Idempotency-Key": '"order 7"'}
    message = tasks.refused(409, "conflict", "POST", "/v1/tasks/mail", b"y", headers=other)
    assert str(id) in message
    assert tasks.enqueue("sms", b"x", key="order 7") != id
    tasks.complete(tasks.one("mail"))
    broker.kill()
    broker.restart()
    # Its payload is gone, the key is still known: whoever lost the answer gets the same number.
    assert tasks.enqueue("mail", b"x", key="order 7") == id
    assert tasks.claim("mail") == []


def test_a_caller_may_wait_for_the_result(tasks):
    def work():
        lease = tasks.one("sum", wait_ms=5000)
        tasks.complete(lease, b"3")

    worker = threading.Thread(target=work)
    worker.start()
    made = tasks.good("POST", "/v1/tasks/sum?wait=5s", b"1+2")
    worker.join()
    assert (made["state"], made["result"]) == ("done", "3")
    # Nobody works: the task stays, and says where it stands.
    assert tasks.good("POST", "/v1/tasks/sum?wait=50ms", b"1+2")["state"] == "ready"
    # The same key again: its end is not missed.
    key = {"Idempotency-Key": "k"}
    first = tasks.good("POST", "/v1/tasks/once?wait=10ms", b"x", headers=key)
    tasks.complete(tasks.one("once"), b"r")
    again = tasks.ask("POST", "/v1/tasks/once?wait=5s", b"x", headers=key)
    assert (again.status, again.json()["id"]) == (200, first["id"])
    assert (again.json()["state"], again.json()["result"]) == ("done", "r")
    tasks.refused(422, "invalid", "POST", "/v1/tasks/sum?wait=1h")


def test_a_chain_is_waited_for_to_its_end(tasks):
    def work():
        for kind in ("a", "b", "c"):
            lease = tasks.one(kind, wait_ms=5000)
            tasks.complete(lease, (lease["payload"] + kind).encode())

    worker = threading.Thread(target=work)
    worker.start()
    made = tasks.good("POST", "/v1/tasks/a?wait=8s&then=b,c&postback=task:log", b"-")
    worker.join()
    assert (made["state"], made["result"]) == ("done", "-abc")
    assert made["last"] != made["id"]
    assert tasks.one("log")["payload"] == "-abc"


def test_claims_wait_for_tasks(tasks):
    """Each of many that wait gets its own task; the others, once their time is over, none."""
    got = []

    def wait(n):
        got.append([lease["payload"] for lease in tasks.claim("x", f"y{n}", wait_ms=8000)])

    waiting = [threading.Thread(target=wait, args=(n,)) for n in range(12)]
    for one in waiting:
        one.start()
    wait_until(
        lambda: tasks.good("GET", "/v1/store")["waiting_claims"] == 12, "all wait", 10.0, 0.05
    )
    began = time.monotonic()
    sent = [f"t{n}" for n in range(11)]
    tasks.good("POST", "/v1/tasks", {"tasks": [{"type": "x", "payload": one} for one in sent]})
    tasks.enqueue("y11" if len(sent) == 12 else "x", b"t11")
    for one in waiting:
        one.join()
    assert sorted(got) == sorted([one] for one in [*sent, "t11"])
    assert time.monotonic() - began < 7.0, "they were told, they did not time out"
    began = time.monotonic()
    assert tasks.claim("x", wait_ms=200) == []
    assert 0.2 <= time.monotonic() - began < 5.0


def test_whoever_hangs_up_while_waiting_takes_no_task_along(broker, tasks):
    import socket

    host, port = broker.http_address.split(":")
    body = json.dumps({"types": ["x"], "wait_ms": 60000})
    with socket.create_connection((host, int(port))) as one:
        one.sendall(
            f"POST /v1/leases HTTP/1.1\r\nHost: {broker.http_address}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n{body}".encode()
        )
        wait_until(lambda: tasks.good("GET", "/v1/store")["waiting_claims"] == 1, "it waits")
    id = tasks.enqueue("x", b"precious")
    lease = tasks.one("x", wait_ms=5000)
    assert (lease["id"], lease["attempt"]) == (id, 1)


def test_what_fails_is_tried_again_then_dead_and_requeued(broker, tasks):
    id = tasks.enqueue("job", b"x", max_attempts=2, backoff_ms=1)
    assert tasks.fail(tasks.one("job"), b"first")["state"] == "scheduled"
    lease = tasks.one("job", wait_ms=5000)
    assert lease["attempt"] == 2
    assert tasks.fail(lease, "zweimal gr\u00fcn".encode())["state"] == "dead"
    (dead,) = tasks.good("GET", "/v1/dead-letters?type=job&error=zweimal")["tasks"]
    assert (dead["id"], dead["reason"], dead["last_error"]) == (id, "attempts", "zweimal gr\u00fcn")
    assert tasks.why(id)["why"] == "ended"
    broker.wait_metric("maitred_tasks_died_total", 1)
    assert tasks.good("POST", "/v1/dead-letters/requeue?type=other")["changed"] == 0
    assert tasks.good("POST", "/v1/dead-letters/requeue?type=job&error=gr")["changed"] == 1
    lease = tasks.one("job")
    assert (lease["id"], lease["attempt"]) == (id, 1)
    assert tasks.fail(lease, b"no use", retry="false")["state"] == "dead"
    assert tasks.good("POST", f"/v1/tasks/{id}/retry")["state"] == "ready"
    tasks.refused(409, "conflict", "POST", f"/v1/tasks/{id}/retry")
    tasks.fail(tasks.one("job"), b"", retry="false")
    assert tasks.good("DELETE", "/v1/dead-letters?reason=rejected")["changed"] == 1
    tasks.refused(404, "unknown_task", "GET", f"/v1/tasks/{id}")


def test_a_lease_that_ends_gives_its_task_back_and_its_token_up(tasks):
    id = tasks.enqueue("x", b"1")
    late = tasks.one("x", lease_ms=50, worker="slow")
    lease = tasks.one("x", wait_ms=5000, worker="fast")
    assert (lease["id"], lease["attempt"]) == (id, 2)
    for word in ("complete", "fail", "extend", "progress", "release"):
        tasks.refused(409, "stale_lease", "POST", f"/v1/leases/{late['token']}/{word}")
    assert "slow" in tasks.show(id)["last_error"]
    held = tasks.good("POST", f"/v1/leases/{lease['token']}/extend?lease_ms=600000")
    assert held["deadline"] > lease["deadline"]
    longer = tasks.good("POST", f"/v1/leases/{lease['token']}/extend", {"lease_ms": 700000})
    assert longer["deadline"] > held["deadline"]
    tasks.good("POST", f"/v1/leases/{lease['token']}/progress", b"half")
    shown = tasks.show(id)
    assert (shown["progress"], shown["worker"], shown["state"]) == ("half", "fast", "leased")
    assert tasks.why(id)["why"] == "running"
    tasks.good("POST", f"/v1/leases/{lease['token']}/release")
    assert tasks.one("x")["attempt"] == 2, "a release is no attempt"


def test_cancelling_queued_and_running_tasks(tasks):
    queued = tasks.enqueue("x", b"queued")
    assert tasks.good("DELETE", f"/v1/tasks/{queued}")["state"] == "cancelled"
    assert tasks.good("DELETE", f"/v1/tasks/{queued}")["state"] == "cancelled"
    running = tasks.enqueue("x", b"running")
    lease = tasks.one("x")
    assert lease["id"] == running
    tasks.good("DELETE", f"/v1/tasks/{running}")
    tasks.refused(410, "cancelled", "POST", f"/v1/leases/{lease['token']}/complete")
    done = tasks.enqueue("x", b"done")
    tasks.complete(tasks.one("x"))
    tasks.refused(409, "ended", "DELETE", f"/v1/tasks/{done}")
    tasks.refused(404, "unknown_task", "DELETE", "/v1/tasks/12")
    for n in range(5):
        tasks.enqueue("many", str(n).encode())
    tasks.refused(422, "invalid", "DELETE", "/v1/tasks")
    tasks.refused(422, "invalid", "DELETE", "/v1/tasks?limit=3")
    some = tasks.good("DELETE", "/v1/tasks?type=many&limit=3")
    assert some == {"changed": 3, "more": True}


def test_settings_do_what_they_say(tasks):
    later = tasks.enqueue("x", b"later", delay_ms=400)
    assert tasks.why(later)["why"] == "delayed"
    low = tasks.enqueue("x", b"low", priority=-5)
    high = tasks.enqueue("x", b"high", priority=5)
    assert [lease["id"] for lease in tasks.claim("x", max=5)] == [high, low]
    assert tasks.one("x", wait_ms=5000)["id"] == later
    first = tasks.enqueue("c", b"1", concurrency_key="db")
    second = tasks.enqueue("c", b"2", concurrency_key="db")
    lease = tasks.one("c", max=5)
    assert lease["id"] == first
    blocked = tasks.why(second)
    assert (blocked["why"], blocked["holders"]) == ("blocked", [first])
    tasks.complete(lease)
    assert tasks.one("c", wait_ms=5000)["id"] == second
    doomed = tasks.enqueue("d", b"x", deadline_ms=50)
    wait_until(lambda: tasks.show(doomed)["state"] == "dead", "its deadline passed")
    assert tasks.show(doomed)["reason"] == "deadline"
    carried = tasks.enqueue("e", b"x", **{"attribute.trace": "abc", "lease_ms": 77000})
    lease = tasks.one("e")
    assert (lease["id"], lease["attributes"]) == (carried, {"trace": "abc"})
    assert abs(lease["deadline"] - time.time() * 1000 - 77000) < 10000
    for _ in range(3):
        tasks.enqueue("f", b"big", fair_key="big")
    tasks.enqueue("f", b"small", fair_key="small")
    assert [one["payload"] for one in tasks.claim("f", max=2)] == ["big", "small"]


def test_batches_answer_each_on_its_own(tasks):
    made = tasks.good(
        "POST",
        "/v1/tasks",
        {
            "tasks": [
                {"type": "a", "payload": "1", "unique_key": "k"},
                {"type": "a", "payload": "1", "unique_key": "k"},
                {"type": "a", "payload": {"json": True}, "then": ["b", {"type": "c"}]},
                {"type": "maitred.a"},
                {"type": "a", "payload_base64": "/w=="},
                {"type": "x" * 256},
            ]
        },
    )["tasks"]
    assert [one.get("met", one.get("reason")) for one in made] == [
        "new", "same", "new", "invalid", "new", "invalid",
    ]
    leases = tasks.claim("a", max=10)
    assert [lease.get("payload") for lease in leases] == ["1", '{"json":true}', None]
    assert leases[1]["content_type"] == "application/json"
    extends = tasks.good(
        "POST",
        "/v1/leases/extend",
        {"extends": [{"token": leases[0]["token"], "progress": "x"}, {"token": "1-1"}]},
    )["extends"]
    assert "deadline" in extends[0] and extends[1]["reason"] == "unknown_task"
    released = tasks.good(
        "POST", "/v1/leases/release", {"releases": [{"token": leases[2]["token"]}]}
    )["releases"]
    assert released == [{"id": leases[2]["id"]}]
    settles = tasks.good(
        "POST",
        "/v1/leases/settle",
        {
            "settles": [
                {"token": leases[0]["token"], "outcome": "complete", "result_base64": "/w=="},
                {"token": leases[1]["token"], "outcome": "reject", "error": "no"},
                {"token": leases[2]["token"], "outcome": "fail"},
            ]
        },
    )["settles"]
    assert [one.get("state", one.get("reason")) for one in settles] == ["done", "dead", "stale_lease"]


def test_queues_are_paused_and_resumed(broker, tasks):
    id = tasks.enqueue("x", b"1")
    assert tasks.good("POST", "/v1/queues/x/pause")["changed"]
    broker.kill()
    broker.restart()
    assert tasks.claim("x") == []
    assert tasks.why(id)["why"] == "paused"
    assert tasks.queue("x")["paused"] and tasks.queue("x")["ready"] == 1
    waiting = threading.Timer(0.2, lambda: tasks.good("POST", "/v1/queues/x/resume"))
    waiting.start()
    assert tasks.one("x", wait_ms=5000)["id"] == id
    waiting.join()


def test_schedules_make_tasks(broker, tasks):
    words = {"cron": "* * * * *", "task": {"type": "tick", "payload": "now"}}
    made = tasks.good("PUT", "/v1/schedules/minute", words)
    assert made["zone"] == "UTC" and made["next_at"] > time.time() * 1000
    broker.kill()
    broker.restart()
    (kept,) = tasks.good("GET", "/v1/schedules")["schedules"]
    assert kept == made
    assert tasks.ask("DELETE", "/v1/schedules/minute").status == 204
    tasks.refused(404, "not_found", "DELETE", "/v1/schedules/minute")
    for wrong in (
        {"cron": "nonsense", "task": {"type": "t"}},
        {"cron": "@daily"},
        {"cron": "@daily", "zone": "Nowhere/At All", "task": {"type": "t"}},
        {"cron": "@daily", "task": {"type": "t", "unique_key": "k"}},
        {"cron": "@daily", "task": {"type": "t"}, "catch_up": "maybe"},
    ):
        tasks.refused(422, "invalid", "PUT", "/v1/schedules/x", wrong)


def test_bad_words_say_what_is_wrong(tasks):
    cases = [
        ("POST", "/v1/tasks/x?prio=1", b"", 422, "there are priority"),
        ("POST", "/v1/tasks/x?priority=high", b"", 422, "not a number"),
        ("POST", "/v1/tasks/maitred.x", b"", 422, "the broker's own"),
        ("POST", "/v1/tasks/x?postback=stomp:/queue/x", b"", 422, "STOMP"),
        ("POST", "/v1/tasks/x?max_attempts=0", b"", 422, "at least 1"),
        ("POST", "/v1/tasks", b"{", 400, "JSON"),
        ("POST", "/v1/tasks", b"[]", 422, "object"),
        ("POST", "/v1/leases", b"", 400, "JSON"),
        ("POST", "/v1/leases", b'{"types":[]}', 422, "1 to 256 types"),
        ("POST", "/v1/leases", b'{"types":["x"],"max":0}', 422, "max"),
        ("POST", "/v1/leases", b'{"types":["x"],"wait_ms":900000}', 422, "wait_ms"),
        ("POST", "/v1/leases", b'{"types":["x"],"lease_ms":-1}', 422, "lease_ms"),
        ("POST", "/v1/leases", b'{"types":["maitred.titanic.x"]}', 422, "the broker's own"),
        ("POST", "/v1/leases", b'{"type":"x"}', 422, "a claim has types"),
        ("POST", "/v1/leases/xyz/complete", b"", 422, "not a lease token"),
        ("GET", "/v1/tasks/mail", None, 422, "not the number of a task"),
        ("GET", "/v1/tasks?state=asleep", None, 422, "unknown variant"),
        ("GET", "/v1/tasks?limit=0", None, 422, "1 to 1000"),
        ("GET", "/v1/tasks/77", None, 404, "no such task"),
        ("POST", "/v1/leases/4d-4d/complete", b"", 404, "no such task"),
    ]
    for method, path, body, status, words in cases:
        answer = tasks.ask(method, path, body)
        assert answer.status == status and words in answer.json()["message"], (path, answer.body)
    answer = tasks.ask("POST", "/v1/tasks/x", b"x" * ((16 << 20) + 1))
    assert answer.status == 422 and "payload" in answer.json()["message"]


def test_lists_are_paged(tasks):
    ids = [tasks.enqueue("x", str(n).encode()) for n in range(5)]
    tasks.enqueue("y", b"other")
    page = tasks.good("GET", "/v1/tasks?type=x&limit=2")
    seen = [task["id"] for task in page["tasks"]]
    while page["next"]:
        page = tasks.good("GET", f"/v1/tasks?type=x&limit=2&after={page['next']}")
        seen += [task["id"] for task in page["tasks"]]
    assert seen == ids
    assert [task["id"] for task in tasks.list(type="x", state="leased")] == []


RIGHTS = """
[http]
token = "the-house-itself"
[principals.shop]
token_file = "shop.token"
enqueue = ["mail", "log"]
[principals.mailer]
token_file = "mailer.token"
serve = ["mail"]
"""


@pytest.fixture
def house(tmp_path, start):
    """A broker whose peers have names: the shop enqueues mail, the mailer works it."""
    directory = tmp_path / "broker-0"
    real = directory.mkdir

    def with_tokens(config):
        return start(config.replace("shop.token", str(tmp_path / "shop.token")).replace(
            "mailer.token", str(tmp_path / "mailer.token")
        ))

    for name in ("shop", "mailer"):
        path = tmp_path / f"{name}.token"
        path.write_text(f"{name}-has-this-token\n")
        path.chmod(0o600)
    assert real
    broker = with_tokens(RIGHTS)
    named = {name: Tasks(broker, f"{name}-has-this-token") for name in ("shop", "mailer")}
    return {"house": Tasks(broker, "the-house-itself"), "broker": broker, **named}


def test_rights_say_who_may_what(house):
    shop, mailer, own = house["shop"], house["mailer"], house["house"]
    id = shop.enqueue("mail", b"x")
    for who, method, path, body in (
        (mailer, "POST", "/v1/tasks/mail", b"x"),
        (shop, "POST", "/v1/tasks/bill", b"x"),
        (shop, "POST", "/v1/tasks/mail?then=bill", b"x"),
        (shop, "POST", "/v1/tasks/mail?postback=task:bill", b"x"),
        (shop, "POST", "/v1/tasks/mail?postback=service:printer", b"x"),
        (shop, "POST", "/v1/leases", {"types": ["mail"]}),
        (mailer, "POST", "/v1/leases", {"types": ["mail", "bill"]}),
        (mailer, "DELETE", f"/v1/tasks/{id}", None),
        (mailer, "GET", "/v1/tasks", None),
        (mailer, "GET", "/v1/tasks?type=bill", None),
        (shop, "POST", "/v1/queues/mail/pause", None),
        (shop, "PUT", "/v1/schedules/x", {"cron": "@daily", "task": {"type": "mail"}}),
        (mailer, "POST", "/v1/dead-letters/requeue?type=mail", None),
    ):
        who.refused(403, "denied", method, path, body)
    assert shop.good("POST", "/v1/tasks", {"tasks": [{"type": "bill"}]})["tasks"][0]["reason"] == (
        "denied"
    )
    assert mailer.show(id)["id"] == shop.show(id)["id"] == id
    lease = mailer.one("mail")
    # A token can be guessed: what it stands for counts.
    shop.refused(403, "denied", "POST", f"/v1/leases/{lease['token']}/complete")
    mailer.complete(lease)
    bill = own.enqueue("bill", b"x")
    mailer.refused(403, "denied", "GET", f"/v1/tasks/{bill}")
    held = own.one("bill")
    mailer.refused(403, "denied", "POST", f"/v1/leases/{held['token']}/fail")
    own.complete(held)
    nobody = Tasks(house["broker"])
    nobody.refused(401, "denied", "GET", "/v1/queues")


def test_the_rate_of_a_principal_counts_what_it_asks_of_tasks(start):
    broker = start('[principals.anonymous]\nrate = 1\nburst = 3\nenqueue = ["*"]\n')
    tasks = Tasks(broker)
    statuses = [tasks.ask("POST", "/v1/tasks/x", b"").status for _ in range(6)]
    assert statuses[0] == 201 and 503 in statuses
    client = broker.client()
    for _ in range(6):
        client.request("maitred.tasks", b"enqueue", b"x", b"y")
    assert b"overload" in [client.reply().body[0] for _ in range(6)]


class Injected:
    """strace on a broker: its system calls fail for as long as this lasts."""

    def __init__(self, broker, fault):
        self.broker, self.fault = broker, fault

    def __enter__(self):
        calls = "fsync,fdatasync,pwrite64"
        self.strace = subprocess.Popen(
            ["strace", "-f", "-p", str(self.broker.child.pid), "-o", "/dev/null", "-e",
             f"trace={calls}", "-e", f"inject={self.fault}"],
            stderr=subprocess.PIPE, text=True,
        )
        line = self.strace.stderr.readline()
        assert "attached" in line, line

    def __exit__(self, *_):
        self.strace.terminate()
        self.strace.wait(timeout=10)
        self.strace.stderr.close()


def test_a_full_disk_refuses_and_passes(broker, tasks):
    first = tasks.enqueue("x", b"before")
    with Injected(broker, "pwrite64:error=ENOSPC"):
        message = tasks.refused(507, "no_space", "POST", "/v1/tasks/x", b"while")
        assert "make room" in message
        client = broker.client()
        assert client.call("maitred.tasks", b"enqueue", b"x", b"y")[0] == b"no_space"
        assert client.call("titanic.request", b"echo", b"y")[0] == b"500"
        assert tasks.show(first)["state"] == "ready", "looking goes on"

    def again():
        answer = tasks.ask("POST", "/v1/tasks/x", b"after")
        return answer.json().get("id") if answer.status == 201 else None

    second = wait_until(again, "there is room again", 10.0, 0.1)
    assert [lease["id"] for lease in tasks.claim("x", max=5)] == [first, second]
    assert broker.metric("maitred_tasks_refused_total") >= 3


def test_a_failed_fsync_ends_the_broker_with_a_message(broker, tasks):
    broker.may_be_gone = True
    first = tasks.enqueue("x", b"before")
    with Injected(broker, "fsync,fdatasync:error=EIO"):
        try:
            answer = tasks.ask("POST", "/v1/tasks/x", b"never answered well")
            assert (answer.status, answer.json()["reason"]) == (503, "stopped")
        except (OSError, surface.http.client.HTTPException):
            pass
        assert broker.child.wait(timeout=10) == 1
    assert "the store stopped" in broker.child.stderr[-1], broker.child.output()
    broker.restart()
    ids = [lease["id"] for lease in tasks.claim("x", max=5)]
    assert first in ids


def test_without_a_store_it_says_so(start, tmp_path):
    broker = start('[store]\nurl = "off"\n')
    tasks = Tasks(broker)
    assert "--store" in tasks.refused(503, "no_store", "POST", "/v1/tasks/x", b"x")
    client = broker.client()
    reason, message = client.call("maitred.tasks", b"enqueue", b"x", b"y")
    assert reason == b"no_store" and b"--store" in message
    # Titanic's names are not ours then: an old Titanic may serve them as a worker.
    broker.serve("titanic.request", lambda body: [b"200", b"f" * 32])
    broker.wait_workers("titanic.request", 1)
    assert client.call("titanic.request", b"echo", b"x")[0] == b"200"


def test_bad_stores_are_refused_at_the_start(tmp_path):
    def serve(*arguments):
        command = [binary(), "serve", "--mdp", "off", "--stomp", "off", "--http", "off", *arguments]
        return subprocess.run(
            command, env=quiet_environment(), capture_output=True, text=True, timeout=20,
            cwd=tmp_path,
        )

    for url, code, words in (
        ("tasks.db", 2, "is no store: expected sqlite:PATH"),
        ("postgres://me:secret@127.0.0.1:1/x", 1, "postgres://127.0.0.1:1/x"),
        ("sqlite:/proc/nowhere/tasks.db", 1, "/proc/nowhere"),
    ):
        done = serve("--store", url)
        assert done.returncode == code and words in done.stderr, done.stderr
        assert "secret" not in done.stderr
    (tmp_path / "broken.db").write_bytes(b"this is no database, whatever its name says" * 100)
    done = serve("--store", "sqlite:broken.db")
    assert done.returncode == 1 and "broken.db" in done.stderr


def test_a_second_broker_is_kept_out(broker):
    path = broker.directory / "data/tasks.db"
    command = [binary(), "serve", "--mdp", "off", "--stomp", "off", "--http", "off", "--store", f"sqlite:{path}"]
    done = subprocess.run(
        command, env=quiet_environment(), capture_output=True, text=True, timeout=20,
        cwd=broker.directory,
    )
    assert done.returncode == 1 and "in use by another process" in done.stderr


def test_the_usual_place_is_taken_only_if_it_is_free(tmp_path):
    """Nobody named a store: the first broker keeps tasks in its directory, the second none."""
    command = [binary(), "serve", "--mdp", "off", "--stomp", "off", "--http", "127.0.0.1:0"]
    first = Child(command, env=quiet_environment(), cwd=tmp_path)
    second = None
    try:
        line = first.line(lambda line: line.startswith("store "))
        assert line.startswith("store sqlite:maitred-data/tasks.db level durable: 0 tasks")
        first.line(lambda line: line == "ready")
        second = Child(command, env=quiet_environment(), cwd=tmp_path)
        line = second.line(lambda line: line.startswith("store "))
        assert line.startswith("store none: ") and "in use" in line and "--store" in line
        second.line(lambda line: line == "ready")
        assert second.terminate() == 0
    finally:
        first.terminate()
        if second is not None:
            second.terminate()
    assert (tmp_path / "maitred-data/tasks.db").exists()


def test_a_reload_says_that_a_store_is_chosen_at_the_start(broker):
    broker.config.write_text('[store]\nurl = "sqlite:elsewhere.db"\n[titanic]\nenabled = false\n')
    answer = broker.request("POST", "/v1/reload")
    assert answer.json() == {"applied": True, "needs_restart": ["store"]}
    client = broker.client()
    assert client.call("titanic.close", b"0" * 32) == [b"200"], "still ours"
    assert not (broker.directory / "elsewhere.db").exists()


def test_a_drained_broker_closes_its_store(broker, tasks):
    tasks.enqueue("x", b"1")
    got = []
    waiting = threading.Thread(target=lambda: got.append(tasks.ask(
        "POST", "/v1/leases", {"types": ["y"], "wait_ms": 60000}
    ).json()))
    waiting.start()
    wait_until(lambda: tasks.good("GET", "/v1/store")["waiting_claims"] == 1, "it waits")
    broker.may_be_gone = True
    assert broker.child.terminate() == 0
    waiting.join()
    assert got == [{"leases": []}]
    broker.restart()
    assert not any("unclean" in line for line in broker.child.stdout)
    assert tasks.one("x")["payload"] == "1"


# Majordomo.


def test_the_words_of_the_majordomo_service(broker, tasks):
    client = broker.client()

    def say(*frames):
        return client.call("maitred.tasks", *frames)

    status, id, met = say(b"enqueue", b"mail", b"\xff\x00", b"priority=3", b"unique_key=k")
    assert (status, met) == (b"ok", b"new")
    assert say(b"enqueue", b"mail", b"\xff\x00", b"unique_key=k") == [b"ok", id, b"same"]
    ok, *ids = say(b"enqueue_all", b"mail", b"1", b"2", b"3")
    assert ok == b"ok" and len(ids) == 3
    ok, count, *rest = say(b"claim", b"type=mail", b"max=2", b"lease_ms=60000", b"worker=w")
    assert (ok, count, len(rest)) == (b"ok", b"2", 12)
    token, kind, attempt, left, content_type, payload = rest[:6]
    assert (kind, attempt, content_type, payload) == (b"mail", b"1", b"", b"\xff\x00")
    assert 50000 < int(left) <= 60000
    assert say(b"extend", token, b"lease_ms=90000", b"progress=half")[0] == b"ok"
    shown = json.loads(say(b"show", id)[1])
    assert (shown["state"], shown["worker"], shown["progress"]) == ("leased", "w", "half")
    assert json.loads(say(b"why", id)[1])["why"] == "running"
    assert say(b"complete", token, b"sent") == [b"ok", b"done"]
    assert say(b"complete", token, b"sent") == [b"ok", b"done"]
    assert say(b"fail", token, b"late")[0] == b"stale_lease"
    assert tasks.show(int(id))["result"] == "sent"
    other = rest[6]
    assert say(b"release", other) == [b"ok"]
    token = say(b"claim", b"type=mail")[2]
    assert say(b"fail", token, b"why", b"retry_after_ms=1") == [b"ok", b"scheduled"]
    token = say(b"claim", b"type=mail")[2]
    assert say(b"reject", token, b"never") == [b"ok", b"dead"]
    task = str(int(token.split(b"-")[0], 16)).encode()
    assert say(b"retry", task) == [b"ok", b"1"]
    assert say(b"cancel", task) == [b"ok", b"1"]
    assert say(b"claim", b"type=nothing") == [b"ok", b"0"]


def test_bad_words_over_majordomo(broker):
    client = broker.client()
    for frames, reason, words in (
        ([], b"bad_request", b"expected a word"),
        ([b""], b"bad_request", b"unknown word"),
        ([b"enqueue", b"x"], b"bad_request", b"too few"),
        ([b"enqueue", b"\xff", b"x"], b"bad_request", b"not UTF-8"),
        ([b"enqueue", b"x", b"y", b"priority"], b"bad_request", b"NAME=VALUE"),
        ([b"enqueue", b"x", b"y", b"prio=1"], b"invalid", b"is no setting"),
        ([b"enqueue", b"maitred.x", b"y"], b"invalid", b"the broker's own"),
        ([b"claim"], b"invalid", b"1 to 256 types"),
        ([b"claim", b"type=x", b"max=many"], b"invalid", b"not a number"),
        ([b"complete", b"xyz"], b"invalid", b"not a lease token"),
        ([b"complete", b"1-1"], b"unknown_task", b"no such task"),
        ([b"extend", b"1-1", b"least=3"], b"invalid", b"lease_ms"),
        ([b"show", b"12"], b"unknown_task", b"no such task"),
    ):
        got, message, *_ = client.call("maitred.tasks", *frames)
        assert got == reason and words in message, (frames, got, message)
    worker = broker.worker("maitred.tasks")
    worker.expect_disconnect()
    broker.check_serving()


def test_a_majordomo_claim_waits_and_leaves_nothing_behind(broker, tasks):
    """It waits, gets what comes; one whose client is gone gives it back unworked."""
    patient = broker.client()
    patient.request("maitred.tasks", b"claim", b"type=x", b"wait_ms=60000")
    wait_until(lambda: tasks.good("GET", "/v1/store")["waiting_claims"] == 1, "it waits")
    patient.sync()
    id = tasks.enqueue("x", b"1")
    ok, count, token, *_ = patient.reply().body
    assert (ok, count) == (b"ok", b"1")
    assert patient.call("maitred.tasks", b"complete", token) == [b"ok", b"done"]
    leaver = broker.client()
    leaver.request("maitred.tasks", b"claim", b"type=x", b"wait_ms=60000")
    wait_until(lambda: tasks.good("GET", "/v1/store")["waiting_claims"] == 1, "it waits")
    leaver.close()
    wait_until(lambda: tasks.good("GET", "/v1/store")["waiting_claims"] == 0, "it left")
    id = tasks.enqueue("x", b"2")
    lease = tasks.one("x", wait_ms=5000)
    assert (lease["id"], lease["attempt"]) == (id, 1)
    empty = patient.call("maitred.tasks", b"claim", b"type=x", b"wait_ms=50")
    assert empty == [b"ok", b"0"]


def test_many_enqueues_in_flight_over_majordomo(broker, tasks):
    """Pipelined through one connection, answered in the order in which they were asked."""
    client = broker.client()
    for n in range(500):
        client.request("maitred.tasks", b"enqueue", b"x", str(n).encode())
    ids = [int(client.reply().body[1]) for _ in range(500)]
    assert ids == sorted(set(ids)) and len(ids) == 500
    claimed = []
    while leases := tasks.claim("x", max=200):
        claimed += [lease["payload"] for lease in leases]
    assert claimed == [str(n) for n in range(500)]


# Results that go to services.


def test_a_result_is_carried_to_a_service(broker, tasks):
    """It waits for a worker of the service, and is carried over a restart of the broker."""
    tasks.enqueue("sum", b"1+2", postback="service:ledger")
    tasks.complete(tasks.one("sum"), b"3")
    broker.kill()
    broker.restart()
    worker = broker.worker("ledger")
    job = worker.take(timeout=15.0)
    assert job.body == [b"3"]
    worker.answer(job, b"noted")
    wait_until(
        lambda: tasks.queue("maitred.postback.service")["done"] == 1, "it was settled", 10.0
    )


def test_a_result_that_a_service_fails_is_a_dead_letter_at_last(broker, tasks):
    broker.serve("ledger", lambda body: [b"MAITRED-FAILED", b"exit 1"])
    broker.wait_workers("ledger", 1)
    tasks.enqueue("sum", b"1+2", postback="service:ledger")
    tasks.complete(tasks.one("sum"), b"3")

    def tried():
        found = tasks.list(type="maitred.postback.service")
        return found and found[0].get("last_error") == "exit 1"

    wait_until(tried, "the attempt failed", 10.0, 0.05)
    (task,) = tasks.list(type="maitred.postback.service")
    assert task["state"] == "scheduled" and task["attempt"] >= 1


# The command line.


def test_the_command_line(broker, tasks):
    done = maitred(broker, "enqueue", "mail", "to: all", "--key", "k", "--set", "priority=2")
    assert done.returncode == 0, done.stderr
    id = int(done.stdout)
    assert int(maitred(broker, "enqueue", "mail", "-", "--key", "k", stdin="to: all").stdout) == id
    listed = maitred(broker, "tasks", "list", "--type", "mail").stdout
    assert str(id) in listed and "ready" in listed
    why = maitred(broker, "tasks", "why", id).stdout
    assert why.startswith("ready: it is next; no worker waits for its type")
    assert json.loads(maitred(broker, "tasks", "show", id, "--json").stdout)["priority"] == 2
    assert "to: all" in maitred(broker, "tasks", "show", id).stdout
    assert "is cancelled" in maitred(broker, "tasks", "cancel", id).stdout
    assert "is ready again" in maitred(broker, "tasks", "retry", id).stdout
    tasks.fail(tasks.one("mail"), b"broken", retry="false")
    assert "broken" in maitred(broker, "tasks", "dead").stdout
    assert maitred(broker, "tasks", "dead", "--requeue", "--error", "bro").stdout == "1 requeued\n"
    assert "mail" in maitred(broker, "queues").stdout
    assert maitred(broker, "queues", "--pause", "mail").stdout == "mail is paused\n"
    assert "yes" in maitred(broker, "queues").stdout
    assert maitred(broker, "queues", "--resume", "mail").stdout == "mail is resumed\n"
    made = maitred(
        broker, "schedules", "--set", "nightly", "--cron", "0 3 * * *", "--zone", "Europe/Berlin",
        "--type", "mail", "--payload", "all", "--catch-up", "3",
    )
    assert made.stdout.startswith("nightly fires in "), made.stderr
    assert "Europe/Berlin" in maitred(broker, "schedules").stdout
    assert maitred(broker, "schedules", "--remove", "nightly").stdout == "nightly is removed\n"
    wrong = maitred(broker, "tasks", "show", 12)
    assert wrong.returncode == 1 and "no such task" in wrong.stderr

    waiting = threading.Timer(0.3, lambda: tasks.complete(tasks.one("sum", wait_ms=5000), b"3"))
    waiting.start()
    done = maitred(broker, "enqueue", "sum", "1+2", "--wait", "8s")
    waiting.join()
    assert (done.returncode, done.stdout) == (0, "3\n"), done.stderr
    assert maitred(broker, "enqueue", "sum", "1+2", "--wait", "50ms").returncode == 3


def test_stores_are_checked_copied_and_restored(broker, tasks):
    ids = [tasks.enqueue("x", str(n).encode()) for n in range(20)]
    path, copy = "data/tasks.db", "copy.db"
    done = maitred(broker, "store", "backup", path, copy)
    assert done.returncode == 0, done.stderr
    assert "in use" in maitred(broker, "store", "check", path).stderr
    assert maitred(broker, "store", "backup", path, copy).returncode == 1, "it is there already"
    tasks.enqueue("x", b"after the backup")
    broker.kill()
    broker.may_be_gone = True
    assert maitred(broker, "store", "check", f"sqlite:{path}").stdout.endswith("sound, 21 tasks\n")
    assert maitred(broker, "store", "restore", copy, path).returncode == 1, "a store is there"
    for old in (broker.directory / "data").glob("tasks.db*"):
        old.unlink()
    done = maitred(broker, "store", "restore", copy, path)
    assert done.returncode == 0 and "20 tasks" in done.stdout, done.stderr
    broker.restart()
    leases = tasks.claim("x", max=100)
    assert [lease["id"] for lease in leases] == ids
    new = tasks.enqueue("x", b"new")
    assert new > max(ids) + 1, "numbers go on above those given after the backup"
    (broker.directory / copy).write_bytes(b"\0" * 4096)
    assert maitred(broker, "store", "check", copy).returncode == 1


# What is seen.


def test_metrics_tell_of_tasks(broker, tasks):
    for n in range(3):
        tasks.enqueue("x", str(n).encode())
    tasks.complete(tasks.one("x"))
    tasks.fail(tasks.one("x"), b"", retry_after_ms=60000)
    for name, value, labels in (
        ("maitred_tasks_enqueued_total", 3, {}),
        ("maitred_tasks_claimed_total", 2, {}),
        ("maitred_tasks_completed_total", 1, {}),
        ("maitred_tasks_failed_total", 1, {}),
        ("maitred_tasks", 1, {"type": "x", "state": "ready"}),
        ("maitred_tasks", 1, {"type": "x", "state": "scheduled"}),
        ("maitred_tasks", 1, {"type": "x", "state": "done"}),
        ("maitred_store", 1, {"engine": "sqlite", "level": "durable"}),
    ):
        assert broker.metric(name, **labels) == value, name


def test_the_document_is_served_and_every_route_of_it_is_there(broker, tasks):
    served = broker.get("/openapi.json")
    assert served.headers["content-type"] == "application/json"
    assert served.json() == surface.DOCUMENT
    for path, operations in surface.DOCUMENT["paths"].items():
        surface.validator({"$ref": "#/components/schemas/Refusal"})
        concrete = path.replace("{token}", "1-1").replace("{name}", "1")
        for method in operations:
            answer = tasks.ask(method.upper(), concrete, b"{}")
            assert answer.status != 405, (method, path)


# Kill -9, again and again, with a ledger of our own.


class Producer(threading.Thread):
    """Enqueues through kills; knows what was answered, and repeats with its key what was not."""

    def __init__(self, tasks, name):
        super().__init__()
        self.tasks, self.prefix = tasks, name
        self.answered = {}
        self.end = threading.Event()

    def run(self):
        n = 0
        while not self.end.is_set():
            payload = f"{self.prefix}-{n}"
            try:
                self.answered[payload] = self.tasks.enqueue("work", payload.encode(), key=payload)
                n += 1
            except (OSError, surface.http.client.HTTPException):
                time.sleep(0.01)


class Consumer(threading.Thread):
    """Claims and completes through kills; knows which completions were answered."""

    def __init__(self, tasks):
        super().__init__()
        self.tasks = tasks
        self.settled = []
        self.end = threading.Event()

    def run(self):
        while not self.end.is_set():
            try:
                for lease in self.tasks.claim("work", max=4, wait_ms=100):
                    path = f"/v1/leases/{lease['token']}/complete"
                    answer = self.tasks.ask("POST", path, b"")
                    # A lease that a kill ended may be another's by now.
                    if answer.status == 200 and not answer.json()["repeated"]:
                        self.settled.append(lease["payload"])
            except (OSError, surface.http.client.HTTPException):
                time.sleep(0.01)


def test_kill_9_loses_nothing_that_was_answered_and_settles_nothing_twice(start):
    broker = start()
    tasks = Tasks(broker)
    chance = random.Random(5)
    producers = [Producer(tasks, name) for name in "ab"]
    consumers = [Consumer(tasks) for _ in range(2)]
    everybody = [*producers, *consumers]
    for one in everybody:
        one.start()
    try:
        for _ in range(8):
            time.sleep(chance.uniform(0.02, 0.4))
            broker.kill()
            broker.restart()
    finally:
        for one in everybody:
            one.end.set()
        for one in everybody:
            one.join()
    settled = [payload for one in consumers for payload in one.settled]
    assert len(settled) == len(set(settled)), "settled twice"
    answered = {payload: id for one in producers for payload, id in one.answered.items()}
    assert len(answered) > 8 and len(set(answered.values())) == len(answered)
    left = {}
    while leases := tasks.claim("work", max=1000):
        left |= {lease["payload"]: lease["id"] for lease in leases}
    assert not set(left) & set(settled), "settled, and there again"
    # What is in neither was settled by a completion whose answer a kill swallowed.
    missing = set(answered) - set(left) - set(settled)
    for payload in missing:
        assert tasks.show(answered[payload])["state"] == "done", payload
    for payload, id in left.items():
        assert answered.get(payload, id) == id
