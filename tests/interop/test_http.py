"""The HTTP side: health, metrics, listings, and calling a service with POST."""

import json
import re
import socket
import threading
import time

import pytest

from broker import FAST_INTERVAL
from mdp import V02


def test_healthz_and_readyz(broker):
    health = broker.get("/healthz")
    assert health.status == 200 and health.body.strip() == b"ok"
    assert broker.get("/readyz").status == 200


def test_unknown_paths_and_methods(broker):
    assert broker.get("/nothing/here").status == 404
    assert broker.request("DELETE", "/v1/services/echo").status in (404, 405)
    assert broker.request("GET", "/v1/services/echo").status in (200, 404, 405)
    broker.check_serving()


def test_metrics_are_openmetrics(broker):
    """Content type, a TYPE before each family's samples, no sample twice, `# EOF` at the end."""
    broker.serve("echo")
    client = broker.client()
    for _ in range(3):
        client.call("echo", b"x")
    answer = broker.get("/metrics")
    assert answer.status == 200
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    text = answer.body.decode()
    assert text.endswith("# EOF\n")
    families, samples = set(), set()
    for line in text.splitlines()[:-1]:
        if line.startswith("# TYPE "):
            family = line.split()[2]
            assert family not in families, line
            families.add(family)
        elif not line.startswith("#"):
            match = re.fullmatch(r"([a-z_:]+)(\{.*\})? (\S+)( \S+)?", line)
            assert match, line
            assert (match[1], match[2]) not in samples, line
            samples.add((match[1], match[2]))
            suffixes = r"_(total|bucket|count|sum|created|info)$"
            assert match[1] in families or re.sub(suffixes, "", match[1]) in families, line
            float(match[3])
    assert {
        "maitred_requests",
        "maitred_refusals",
        "maitred_redeliveries",
        "maitred_connections",
        "maitred_workers",
        "maitred_queue_length",
    } <= families
    assert any(name.endswith("_bucket") and "sojourn" in name for name, _ in samples)
    assert any("bytes" in family for family in families)


def test_metrics_follow_what_happens(broker):
    def now(name):
        return broker.metric(name)

    assert (
        now("maitred_requests_total") == now("maitred_workers") == now("maitred_queue_length") == 0
    )
    client = broker.client()
    client.request("echo", b"1")
    client.request("echo", b"2")
    broker.wait_metric("maitred_queue_length", 2)
    worker = broker.worker("echo")
    broker.wait_metric("maitred_workers", 1)
    broker.wait_metric("maitred_queue_length", 1)
    worker.serve_one()
    worker.serve_one()
    client.reply()
    client.reply()
    broker.wait_metric("maitred_queue_length", 0)
    broker.wait_metric("maitred_requests_total", 2)
    assert now("maitred_connections") >= 2
    worker.close()
    broker.wait_metric("maitred_workers", 0)


def test_services_and_workers_are_listed(broker):
    assert broker.get("/v1/services").json()["services"] == []
    assert broker.get("/v1/workers").json()["workers"] == []
    worker = broker.idle_worker("echo")
    broker.idle_worker("echo", "concurrency=3", dialect=V02)
    broker.idle_worker("other")
    client = broker.client()
    client.request("echo", b"x")
    worker.take()
    client.request("nobody", b"y")
    broker.wait_service("echo", workers=2, offers=3, waiting=0, leased=1)
    broker.wait_service("other", workers=1, offers=1, waiting=0, leased=0)
    broker.wait_service("nobody", workers=0, offers=0, waiting=1, leased=0)
    listed = broker.get("/v1/workers").json()["workers"]
    assert sorted(entry["service"] for entry in listed) == ["echo", "echo", "other"]


@pytest.mark.parametrize(
    "body",
    [b"hello", b"", b"\0\xff" * 1000, b"x" * 1_000_000],
    ids=["text", "empty", "binary", "large"],
)
def test_post_calls_a_service(broker, body):
    """Body in as one frame, body out as it came."""
    worker = broker.idle_worker("echo")
    got = []

    def serve():
        job = worker.take()
        got.append(job.body)
        worker.answer(job, body[::-1])

    serving = threading.Thread(target=serve)
    serving.start()
    answer = broker.post("echo", body)
    serving.join()
    assert answer.status == 200 and answer.body == body[::-1]
    assert got == [[body]]


@pytest.mark.parametrize("name", ["a b", "größe", "a/b", "100%", "?x=1"])
def test_post_to_names_that_need_escapes(broker, name):
    broker.serve(name)
    broker.wait_workers(name, 1)
    assert broker.post(name, b"x").body == b"x"


def test_post_is_served_by_0_2_workers(broker):
    """Partial replies are joined, as for any client that expects one reply."""

    def stream(worker):
        job = worker.take()
        worker.partial(job, b"one ")
        worker.answer(job, b"two")

    worker = broker.idle_worker("echo", dialect=V02)
    serving = threading.Thread(target=stream, args=(worker,))
    serving.start()
    answer = broker.post("echo", b"x")
    serving.join()
    assert answer.status == 200 and answer.body == b"one two"


def test_no_such_service_is_404(broker):
    started = time.monotonic()
    answer = broker.post("nobody", b"x", timeout="5s")
    assert answer.status == 404
    assert time.monotonic() - started < 2.0
    assert broker.get("/v1/services").json()["services"] == []


def test_reserved_names_are_not_services(broker):
    assert broker.post("mmi.service", b"echo").status in (200, 403, 404)
    broker.check_serving()


def test_timeout_is_504_and_takes_the_request_back(broker):
    """The worker that comes too late does not get it any more."""
    busy = broker.idle_worker("echo")
    client = broker.client()
    client.request("echo", b"first")
    job = busy.take()
    started = time.monotonic()
    assert broker.post("echo", b"impatient", timeout="500ms").status == 504
    assert 0.4 <= time.monotonic() - started < 3.0
    broker.wait_service("echo", waiting=0)
    busy.answer(job, b"done")
    busy.idle()


def test_timeout_while_a_worker_has_it(broker):
    """504 as well; the worker's reply is dropped and it goes on working."""
    worker = broker.idle_worker("echo")
    answers = []
    posting = threading.Thread(
        target=lambda: answers.append(broker.post("echo", b"x", timeout="300ms"))
    )
    posting.start()
    job = worker.take()
    posting.join()
    assert answers[0].status == 504
    worker.answer(job, b"late")
    worker.idle()
    assert broker.workers("echo") == 1


@pytest.mark.parametrize("timeout", ["soon", "-1s", "1", "99999999999999999999s"])
def test_odd_timeouts_are_refused_or_read(broker, timeout):
    broker.serve("echo")
    broker.wait_workers("echo", 1)
    assert broker.post("echo", b"x", timeout=timeout).status in (200, 400)
    broker.check_serving()


def test_a_caller_that_hangs_up_takes_its_request_back(broker):
    """A closed HTTP connection is a vanished client like any other."""
    worker = broker.idle_worker("echo")
    client = broker.client()
    client.request("echo", b"first")
    job = worker.take()
    host, port = broker.http_address.split(":")
    caller = socket.create_connection((host, int(port)), timeout=5.0)
    caller.sendall(
        b"POST /v1/services/echo HTTP/1.1\r\n"
        b"Host: %s\r\nContent-Length: 4\r\n\r\ngone" % broker.http_address.encode()
    )
    broker.wait_service("echo", waiting=1)
    caller.close()
    broker.wait_service("echo", waiting=0)
    worker.answer(job, b"done")
    worker.idle()


def test_full_queue_is_503_with_reason_and_retry_after(start):
    """HTTP has words for a refusal, so it is not held back but told."""
    broker = start('[services."echo"]\nqueue_max = 1\n')
    worker = broker.idle_worker("echo")
    client = broker.client()
    client.request("echo", b"leased")
    job = worker.take()
    client.request("echo", b"waiting")
    broker.wait_service("echo", waiting=1, leased=1)
    answer = broker.post("echo", b"one too many", timeout="5s")
    assert answer.status == 503
    assert int(answer.headers["retry-after"]) >= 0
    assert answer.json()["reason"] == "queue_full"
    assert broker.metric("maitred_refusals_total", reason="queue_full") == 1
    worker.answer(job, b"one")
    worker.serve_one(b"two")
    assert [client.reply().body for _ in range(2)] == [[b"one"], [b"two"]]


def test_lost_workers_are_503(start):
    broker = start('[services."fatal"]\nmax_deliveries = 1\n')
    worker = broker.worker_process("fatal", "--die")
    answer = broker.post("fatal", b"poison", timeout="10s")
    assert answer.status == 503
    assert answer.json()["reason"] == "workers_failed"
    assert worker.wait() == 9


def test_a_lost_worker_is_not_the_callers_business(broker):
    """Redelivery works for HTTP callers too."""
    victim = broker.worker_process("echo", "--die")
    answers = []
    posting = threading.Thread(
        target=lambda: answers.append(broker.post("echo", b"x", timeout="10s"))
    )
    posting.start()
    victim.busy()
    victim.wait()
    broker.worker("echo").serve_one(b"rescued")
    posting.join()
    assert (answers[0].status, answers[0].body) == (200, b"rescued")


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "evil.example:80"},
        {"Origin": "http://evil.example"},
        {"Origin": "https://127.0.0.1.evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site", "Origin": "http://evil.example"},
    ],
    ids=str,
)
def test_foreign_host_or_origin_may_change_nothing(broker, headers):
    """DNS rebinding and cross-site pages: 403, and no worker ever sees the request."""
    worker = broker.idle_worker("echo")
    answer = broker.post("echo", b"x", headers=headers, timeout="1s")
    assert answer.status == 403
    worker.idle()


def test_own_host_and_origin_may(broker):
    broker.serve("echo")
    broker.wait_workers("echo", 1)
    port = broker.http_address.split(":")[1]
    for host in (f"127.0.0.1:{port}", f"localhost:{port}"):
        answer = broker.post("echo", b"x", headers={"Host": host, "Origin": f"http://{host}"})
        assert answer.status == 200, host


def test_token(start):
    """With `[http] token` only those who know it may call."""
    broker = start('[http]\ntoken = "open sesame"\n')
    broker.serve("echo")
    broker.wait_workers("echo", 1)
    for wrong in (
        None,
        "Bearer",
        "Bearer wrong",
        "Bearer open sesam",
        "Bearer open sesame!",
        "Basic open sesame",
        "open sesame",
    ):
        headers = {} if wrong is None else {"Authorization": wrong}
        assert broker.post("echo", b"x", headers=headers).status == 401, wrong
    right = broker.post("echo", b"x", headers={"Authorization": "Bearer open sesame"})
    assert (right.status, right.body) == (200, b"x")
    assert broker.get("/healthz").status == 200


@pytest.mark.parametrize(
    "octets",
    [
        b"\r\n\r\n",
        b"GET\r\n\r\n",
        b"\xff" + bytes(8) + b"\x7f\x03\x01NULL" + bytes(48),
        b"POST /v1/services/echo HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999\r\n\r\nx",
        b"POST /v1/services/echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\n\r\n",
        b"GET /v1/services/%ff%00 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    ],
    ids=["blank", "no-path", "zmtp", "huge-length", "bad-chunk", "long-path", "odd-name"],
)
def test_garbage_on_the_http_port(broker, octets):
    host, port = broker.http_address.split(":")
    with socket.create_connection((host, int(port)), timeout=5.0) as peer:
        try:
            peer.sendall(octets)
            peer.settimeout(0.3)
            peer.recv(4096)
        except OSError:
            pass
    assert broker.get("/healthz").status == 200
    broker.check_serving()


def test_a_body_beyond_the_message_limit_is_413(start):
    broker = start('[limits]\nframe_bytes = "1MiB"\nmessage_bytes = "1MiB"\n')
    broker.serve("echo")
    broker.wait_workers("echo", 1)
    before = broker.rss_kib()
    try:
        status = broker.post("echo", b"x" * (8 * 1024 * 1024)).status
    except OSError:  # it may hang up on the rest of the body
        status = 413
    assert status == 413
    assert broker.rss_kib() - before < 16 * 1024
    assert broker.post("echo", b"x").status == 200


def test_slow_http_callers_stall_nothing(fast):
    """Fifty callers that never finish their request: MDP and HTTP go on."""
    host, port = fast.http_address.split(":")
    callers = [socket.create_connection((host, int(port)), timeout=5.0) for _ in range(50)]
    for caller in callers:
        caller.sendall(
            b"POST /v1/services/echo HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 100\r\n\r\n"
        )
    fast.serve("echo", interval=FAST_INTERVAL)
    fast.wait_workers("echo", 1)
    assert fast.post("echo", b"x").body == b"x"
    assert fast.client().call("echo", b"y") == [b"y"]
    for caller in callers:
        caller.close()


def test_refusal_reasons_are_json(broker):
    """What is refused says so in JSON, and says which kind of JSON it is."""
    answer = broker.post("nobody", b"x")
    assert answer.headers["content-type"].startswith("application/json")
    assert "reason" in json.loads(answer.body)


def test_a_missed_aim_sheds(start):
    """Nobody gets through, so who waited twice the aim is refused long before its own time-out."""
    broker = start("[defaults]\naim = \"20ms\"\n")
    worker, client = broker.worker("slow"), broker.client()
    client.request("slow", b"held")
    job = worker.take()
    answer = broker.post("slow", b"waits", timeout="10s")
    assert (answer.status, answer.json()["reason"]) == (503, "overload")
    assert broker.metric("maitred_refusals_total", reason="overload") == 1
    worker.answer(job, b"done")
    assert client.reply().body == [b"done"]
