"""Processes that meet at named places: `maitred.match` and `maitred.regulator`."""

import subprocess
import sys

import pytest

import mdp
from broker import binary, quiet_environment
from process import Child, wait_until

PLACES = """
[match.db]
ask = { give_up = "never" }

[regulator.gate]
valve = { kind = "concurrency", max = 1 }
"""

# A process that says one word, prints its answer and stays.
STAYS = """
import sys, time, zmq
endpoint, service, *body = sys.argv[1:]
socket = zmq.Context().socket(zmq.REQ)
socket.connect(endpoint)
socket.send_multipart([b"MDPC01", service.encode(), *map(str.encode, body)])
print("said", flush=True)
header, service, *answer = socket.recv_multipart()
print(*[frame.decode() for frame in answer], flush=True)
time.sleep(600)
"""


def process(broker, service, *body):
    command = [sys.executable, "-c", STAYS, broker.endpoint, service, *body]
    child = Child(command, env=quiet_environment(), cwd=broker.directory)
    child.close = child.kill
    broker.own(child)
    child.line(lambda line: line == "said")
    return child


def length(broker, service, name):
    word, *numbers = broker.mmi(service, b"len", name)
    assert word == b"number"
    return [int(number) for number in numbers]


def wait_length(broker, service, name, expected):
    wait_until(lambda: length(broker, service, name) == expected, f"{name} has {expected}")


def answer(child):
    return child.line(lambda line: line != "said").split()


def test_two_processes_meet_and_get_each_others_value(start):
    broker = start(PLACES)
    one = process(broker, "maitred.match", "ask", "db", "one")
    wait_length(broker, "maitred.match", b"db", [1, 0])
    other = process(broker, "maitred.match", "ask_r", "db", "other")
    word, value, relative, sojourn = answer(one)
    assert (word, value) == ("go", "other")
    assert int(relative) == int(sojourn) > 0
    word, value, relative_r, sojourn_r = answer(other)
    assert (word, value) == ("go", "one")
    assert int(relative_r) == -int(relative) and int(sojourn_r) >= 0
    assert length(broker, "maitred.match", b"db") == [0, 0]


def test_a_killed_waiter_is_never_met(start):
    broker = start(PLACES)
    dead = process(broker, "maitred.match", "ask", "db", "dead")
    wait_length(broker, "maitred.match", b"db", [1, 0])
    alive = process(broker, "maitred.match", "ask", "db", "alive")
    wait_length(broker, "maitred.match", b"db", [2, 0])
    dead.kill()
    wait_length(broker, "maitred.match", b"db", [1, 0])
    assert broker.mmi("maitred.match", b"ask_r", b"db", b"x")[:2] == [b"go", b"alive"]
    assert answer(alive)[:2] == ["go", "x"]
    assert broker.mmi("maitred.match", b"try_ask_r", b"db", b"x") == [b"retry"]


def test_a_killed_holder_gives_its_lock_to_the_next(start):
    broker = start(PLACES)
    holder = process(broker, "maitred.regulator", "acquire", "gate")
    word, lock, _, _ = answer(holder)
    assert word == "go"
    # Nobody else can say that it is done.
    done = broker.mmi("maitred.regulator", b"done", b"gate", lock.encode())
    assert done == [b"not_found", b"lock"]
    assert broker.mmi("maitred.regulator", b"try_acquire", b"gate") == [b"retry"]
    following = process(broker, "maitred.regulator", "acquire", "gate")
    wait_length(broker, "maitred.regulator", b"gate", [1, 1])
    holder.kill()
    word, other, relative, sojourn = answer(following)
    assert word == "go" and other != lock and int(relative) == int(sojourn) > 0
    following.kill()
    wait_length(broker, "maitred.regulator", b"gate", [0, 0])


@pytest.mark.parametrize("dialect", [mdp.V01, mdp.V02], ids=["mdp01", "mdp02"])
def test_a_lock_from_acquire_to_done(start, dialect):
    broker = start(PLACES)
    client = broker.client(dialect)
    word, lock, *_ = client.call("maitred.regulator", b"acquire", b"gate")
    assert word == b"go"
    assert client.call("maitred.regulator", b"continue", b"gate", lock)[:2] == [b"go", lock]
    # The next waits under a label, and is withdrawn by it.
    client.request("maitred.regulator", b"acquire", b"gate", b"label=next")
    client.request("maitred.regulator", b"cancel", b"gate", b"next")
    assert [client.reply().body, client.reply().body] == [[b"cancelled"], [b"number", b"1"]]
    client.request("maitred.regulator", b"acquire", b"gate", b"timeout=1000")
    word, reason, sojourn = client.reply().body
    assert (word, reason) == (b"drop", b"expired") and int(sojourn) >= 1000
    assert client.call("maitred.regulator", b"update", b"gate", b"5000") == [b"done"]
    assert client.call("maitred.regulator", b"done", b"gate", lock, b"failed") == [b"done"]
    assert client.call("maitred.regulator", b"done", b"gate", lock) == [b"not_found", b"lock"]


@pytest.mark.parametrize(
    "service, body, expected",
    [
        ("match", [b"ask", b"nowhere", b"x"], [b"not_found", b"name"]),
        ("regulator", [b"acquire", b"db"], [b"not_found", b"name"]),
        ("match", [b"ask", b"db"], b"expected the value"),
        ("match", [b"ask", b"db", b"x", b"label="], b"a label has"),
        ("match", [b"ask", b"db", b"x", b"timeout=soon"], b"expected whole microseconds"),
        ("match", [b"ask", b"db", b"x", b"y"], b"unknown option"),
        ("match", [b"ask", b"db", b"x", *[b"label=a"] * 9], b"too many frames"),
        ("match", [b"acquire", b"db"], b"unknown word"),
        ("match", [b""], b"expected a word"),
        ("regulator", [b"done", b"gate", b"mine"], b"the name of a lock"),
        ("regulator", [b"len", b"gate", b"x"], b"len takes nothing"),
    ],
)
def test_a_wrong_word_is_answered_with_what_is_right(start, service, body, expected):
    broker = start(PLACES)
    got = broker.mmi(f"maitred.{service}", *body)
    if isinstance(expected, bytes):
        assert got[0] == b"bad_request" and got[1].startswith(expected), got
        assert len(got) == 2
    else:
        assert got == expected


def test_places_start_and_stop_with_reload(start):
    broker = start(PLACES)
    waiter = process(broker, "maitred.match", "ask", "db", "x")
    wait_length(broker, "maitred.match", b"db", [1, 0])
    broker.config.write_text("[match.other]\n")
    reload = [binary(), "reload", "--http", broker.http_url]
    subprocess.run(reload, check=True, timeout=20, env=quiet_environment(), capture_output=True)
    assert answer(waiter)[:2] == ["drop", "draining"]
    assert broker.mmi("maitred.match", b"len", b"db") == [b"not_found", b"name"]
    assert length(broker, "maitred.match", b"other") == [0, 0]


def test_no_worker_serves_the_brokers_own_names(start):
    broker = start(PLACES)
    for name in ("maitred.match", "maitred.regulator", "maitred.anything"):
        broker.worker(name).expect_disconnect()
    assert broker.mmi("maitred.anything", b"x") == [b"501"]
