"""`maitred bench overload`: its ledger against what the broker itself counted. How good the broker is
at it is no question here, and nothing is timed."""

import json
import threading

import zmq

from curve import Keys
from process import wait_until
from test_cli import run

SERVICE = "busy"
# Half as long as it takes to be sure of requests that come too late in a plain line.
SHORT = ("--lasts", "1500ms", "--patience", "300ms", "--workers", "4", "--service", SERVICE)


def overload(endpoint, *arguments):
    done = run("bench", "overload", "--json", "--mdp", endpoint, *SHORT, *arguments, timeout=30)
    assert done.returncode == 0, done.stderr
    out = json.loads(done.stdout)
    assert out["bad"] == 0
    assert out["sent"] > 500, "twice of what four workers can do in 1.5 s is some 1200"
    ends = ("in_time", "late", "refused", "unanswered")
    assert out["sent"] == sum(out[end] for end in ends), out
    assert out["given_up"] == out["late"] + out["unanswered"]
    # Nobody works faster than it was told to.
    assert 0 < out["goodput_of_capacity"] <= 1.01
    assert out["worked_ms"] >= 10.0
    assert out["answered_ms"]["p50"] >= 10.0
    assert out["answered_ms"]["p50"] <= out["answered_ms"]["p99"] <= out["answered_ms"]["max"]
    parts = out["parts"]
    assert sum(parts["sent"]) == out["sent"]
    assert sum(parts["in_time"]) <= out["in_time"]
    assert sum(parts["late"]) <= out["late"]
    assert sum(parts["refused"]) <= out["refused"]
    answered = [sum(both) for both in zip(parts["in_time"], parts["late"])]
    assert [ms is not None for ms in parts["p99_ms"]] == [count > 0 for count in answered]
    return out


def counted(broker):
    """Requests, replies and refusals of the service as the broker has them."""
    names = ("requests", "replies", "refusals")
    return [broker.metric(f"maitred_service_{name}_total", service=SERVICE) for name in names]


AIMED = '[defaults]\naim = "20ms"\ngive_up = "100ms"\nanswer_refusals = {}\n'


def test_whoever_is_shed_is_told(start):
    broker = start(AIMED.format("true"))
    out = overload(broker.endpoint)
    assert out["refused"] > 0 and out["unanswered"] == 0
    assert counted(broker) == [out["sent"], out["in_time"] + out["late"], out["refused"]]


def test_whoever_is_shed_in_silence_is_missed(start):
    broker = start(AIMED.format("false"))
    out = overload(broker.endpoint)
    assert out["refused"] == 0 and out["unanswered"] > 0
    # Whoever waits was answered or shed long before the last client gave up.
    assert counted(broker) == [out["sent"], out["in_time"] + out["late"], out["unanswered"]]


def test_a_plain_line_serves_too_late(broker):
    out = overload(broker.endpoint)
    assert out["late"] > 0 and out["unanswered"] > 0 and out["refused"] == 0
    requests, replies, refusals = counted(broker)
    assert (requests, refusals) == (out["sent"], 0)
    # The last replies of the workers may have met a client that no longer listened.
    assert 0 <= replies - out["in_time"] - out["late"] <= 4


def test_it_proves_who_it_is(start, tmp_path):
    keys = Keys(tmp_path / "keys")
    for name in ("server", "load"):
        keys.make(name)
    broker = start(
        f"""{AIMED.format("true")}
[security]
server_key = "{keys.path("server")}"
[[mdp.listen]]
endpoint = "tcp://127.0.0.1:0"
mechanism = "curve"
[principals.load]
keys = ["{keys.public("load")}"]
call = ["*"]
serve = ["*"]
[principals.anonymous]
administer = true
""",
        mdp_option=False,
    )
    out = overload(broker.endpoint, "--server-key", keys.public("server"), "--key", keys.path("load"))
    assert counted(broker) == [out["sent"], out["in_time"] + out["late"], out["refused"]]


def test_a_broker_of_another_make_will_do():
    """The least there is, on libzmq: one line, workers in turn."""
    context = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.set(zmq.LINGER, 0)
    router.set(zmq.RCVTIMEO, 100)
    port = router.bind_to_random_port("tcp://127.0.0.1")
    waiting, idle, done = [], [], threading.Event()
    counts = {"requests": 0, "replies": 0, "heartbeats": 0}

    def on_message(sender, empty, protocol, *rest):
        assert empty == b""
        match [protocol, *rest]:
            case [b"MDPC01", service, body]:
                assert service == SERVICE.encode()
                counts["requests"] += 1
                waiting.append((sender, body))
            case [b"MDPW01", b"\1", service]:
                assert service == SERVICE.encode()
                idle.append(sender)
            case [b"MDPW01", b"\3", client, b"", body]:
                counts["replies"] += 1
                router.send_multipart([client, b"", b"MDPC01", SERVICE.encode(), body])
                idle.append(sender)
            case [b"MDPW01", b"\4"]:
                counts["heartbeats"] += 1
            case [b"MDPW01", b"\5"]:
                done.set()
            case other:
                raise AssertionError(other)
        while waiting and idle:
            client, body = waiting.pop(0)
            router.send_multipart([idle.pop(0), b"", b"MDPW01", b"\2", client, b"", body])

    def serve():
        while not done.is_set():
            try:
                on_message(*router.recv_multipart())
            except zmq.Again:
                pass

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        out = overload(f"tcp://127.0.0.1:{port}")
        wait_until(done.is_set, "a goodbye")
    finally:
        done.set()
        thread.join(5)
        context.destroy(linger=0)
    assert not thread.is_alive()
    assert counts["requests"] == out["sent"] and counts["heartbeats"] >= 4
    assert 0 <= counts["replies"] - out["in_time"] - out["late"] <= 4
    assert out["late"] > 0


def test_what_makes_no_load():
    cases = [
        (("--factor", "0"), 2, "a number from 0.01 to 100"),
        (("--workers", "0"), 2, "0 is not in 1..=256"),
        (("--takes", "never"), 2, "--takes must be from 100µs to 3600s"),
        (("--lasts", "1h", "--takes", "100us"), 2, "requests are too many"),
        (("--mdp", "127.0.0.1:5555"), 2, "is not an endpoint"),
        (("--mdp", "tcp://127.0.0.1:1"), 1, "Connection refused"),
        (("--spawn", "--mdp", "tcp://127.0.0.1:1"), 2, "cannot be used with"),
    ]
    for arguments, code, message in cases:
        done = run("bench", "overload", *arguments)
        assert done.returncode == code, (arguments, done)
        assert message in done.stderr.decode(), (arguments, done.stderr)


def test_it_starts_a_broker_of_its_own():
    done = run("bench", "overload", "--spawn", "--lasts", "200ms", "--patience", "50ms")
    assert done.returncode == 0, done.stderr
    assert "times what 8 workers can do" in done.stdout.decode()
