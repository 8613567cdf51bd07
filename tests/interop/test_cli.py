"""The command line against a running broker, and the broker's own end."""

import json
import os
import re
import signal
import subprocess
import threading

import pytest

from broker import binary, quiet_environment
from mdp import Reply
from process import Child, wait_until


def run(*arguments, env=None, stdin="", timeout=15.0):
    """Runs one command to its end."""
    return subprocess.run(
        [str(binary()), *map(str, arguments)],
        input=stdin.encode() if isinstance(stdin, str) else stdin,
        capture_output=True,
        timeout=timeout,
        env=quiet_environment() | (env or {}),
    )


def command(broker, *arguments):
    """A command that stays; ends with the test."""
    child = Child([binary(), *arguments], env=quiet_environment(), cwd=broker.directory)
    child.close = child.terminate
    return broker.own(child)


def test_a_reader_that_goes_away_does_not_end_the_broker(tmp_path):
    """As in `maitred serve | head -n 1`."""
    endpoint = f"ipc://{tmp_path}/mdp"
    reader, writer = os.pipe()
    os.close(reader)
    command = [binary(), "serve", "--mdp", endpoint, "--stomp", "off", "--http", "off"]
    with subprocess.Popen(command, stdout=writer, env=quiet_environment(), cwd=tmp_path) as broker:
        os.close(writer)
        try:
            wait_until((tmp_path / "mdp").exists, "the socket")
            done = run("call", "nobody", "x", "--timeout", "300ms", "--mdp", endpoint)
            assert done.returncode == 3, done.stderr
            assert broker.poll() is None
        finally:
            broker.terminate()
            assert broker.wait(10) == 0


def test_call_prints_the_reply(broker):
    broker.serve("upper", lambda body: [body[0].upper()])
    done = run("call", "upper", "hello", "--mdp", broker.endpoint)
    assert (done.returncode, done.stdout.rstrip(b"\n")) == (0, b"HELLO"), done.stderr


def test_call_reads_the_body_from_stdin(broker):
    broker.serve("size", lambda body: [b"%d" % len(body[0])])
    done = run("call", "size", "-", "--mdp", broker.endpoint, stdin=b"\0\xff" * 5000)
    assert (done.returncode, done.stdout.rstrip(b"\n")) == (0, b"10000"), done.stderr


def test_call_finds_the_broker_by_environment(broker):
    broker.serve("echo")
    done = run("call", "echo", "hello", env={"MAITRED_MDP": broker.endpoint})
    assert (done.returncode, done.stdout.rstrip(b"\n")) == (0, b"hello"), done.stderr


def test_call_json(broker):
    broker.serve("echo")
    done = run("call", "echo", "hello", "--json", "--mdp", broker.endpoint)
    assert done.returncode == 0, done.stderr
    assert "hello" in json.dumps(json.loads(done.stdout))


def test_call_gives_up_after_its_timeout(broker):
    done = run("call", "nobody", "x", "--timeout", "300ms", "--mdp", broker.endpoint)
    assert done.returncode != 0
    assert done.stderr and not done.stdout


def test_call_without_a_broker_fails_in_time():
    done = run("call", "echo", "x", "--timeout", "500ms", "--mdp", "tcp://127.0.0.1:1")
    assert done.returncode != 0 and done.stderr


def test_work_runs_a_command_per_request(broker):
    command(broker, "work", "echo", "--mdp", broker.endpoint, "--", "cat")
    broker.wait_workers("echo", 1)
    client = broker.client()
    for body in (b"hello", b"", b"\0\xff" * 1000):
        assert client.call("echo", body) == [body]


def test_work_concurrency(broker):
    """Two commands at once: each waits for the other's file."""
    script = (
        'read name other; touch "$name"; while [ ! -e "$other" ]; do sleep 0.02; done; echo "$name"'
    )
    command(
        broker,
        "work",
        "meet",
        "--concurrency",
        "2",
        "--mdp",
        broker.endpoint,
        "--",
        "sh",
        "-c",
        script,
    )
    broker.wait_workers("meet", 1)
    client = broker.client()
    client.request("meet", b"one two\n")
    client.request("meet", b"two one\n")
    assert {client.reply(timeout=10.0).body[0] for _ in range(2)} == {b"one\n", b"two\n"}


def test_work_leaves_in_order_on_sigterm(broker):
    """It finishes what it has, answers it, says DISCONNECT and exits with 0."""
    worker = command(
        broker,
        "work",
        "slow",
        "--mdp",
        broker.endpoint,
        "--",
        "sh",
        "-c",
        "touch begun; while [ ! -e go ]; do sleep 0.02; done; echo done",
    )
    broker.wait_workers("slow", 1)
    client = broker.client()
    client.request("slow", b"x")
    wait_until((broker.directory / "begun").exists, "the command runs")
    worker.signal(signal.SIGTERM)
    (broker.directory / "go").touch()
    assert client.reply(timeout=10.0) == Reply(b"slow", [b"done\n"])
    assert worker.wait() == 0
    assert broker.workers("slow") == 0


def test_services_and_workers(broker):
    broker.idle_worker("echo")
    broker.idle_worker("echo")
    for env, options in (
        ({}, ["--http", broker.http_url]),
        ({"MAITRED_HTTP": broker.http_url}, []),
    ):
        done = run("services", "--json", *options, env=env)
        assert done.returncode == 0, done.stderr
        (entry,) = json.loads(done.stdout)["services"]
        assert (entry["name"], entry["workers"], entry["offers"]) == ("echo", 2, 2)
        done = run("workers", "--json", *options, env=env)
        assert done.returncode == 0, done.stderr
        assert len(json.loads(done.stdout)["workers"]) == 2
        for plain in ("services", "workers"):
            done = run(plain, *options, env=env)
            assert done.returncode == 0 and b"echo" in done.stdout, done.stderr


def test_services_without_a_broker_fails():
    done = run("services", "--http", "http://127.0.0.1:1")
    assert done.returncode != 0 and done.stderr


@pytest.mark.parametrize("how", ["SIGTERM", "SIGINT", "drain"])
def test_drain_answers_what_is_in_flight_then_exits(broker, how):
    """The request that a worker holds is answered before the broker ends with 0."""
    worker, client = broker.worker("echo"), broker.client()
    client.request("echo", b"x")
    job = worker.take()
    broker.may_be_gone = True
    if how == "drain":
        done = run("drain", "--http", broker.http_url)
        assert done.returncode == 0, done.stderr
    else:
        broker.child.signal(getattr(signal, how))
    wait_until(lambda: not _ready(broker), "not ready any more")
    assert broker.child.running()
    worker.answer(job, b"still answered")
    assert client.reply() == Reply(b"echo", [b"still answered"])
    assert broker.child.wait(10.0) == 0, broker.child.output()


def _ready(broker):
    try:
        return broker.get("/readyz").status == 200
    except OSError:
        return False


def test_a_second_sigterm_is_harmless(broker):
    worker, client = broker.worker("echo"), broker.client()
    client.request("echo", b"x")
    job = worker.take()
    broker.may_be_gone = True
    broker.child.signal(signal.SIGTERM)
    wait_until(lambda: not _ready(broker), "not ready any more")
    broker.child.signal(signal.SIGTERM)
    worker.answer(job, b"answered")
    assert client.reply().body == [b"answered"]
    assert broker.child.wait(10.0) == 0, broker.child.output()


def test_an_idle_broker_ends_at_once(broker):
    broker.idle_worker("echo")
    broker.may_be_gone = True
    broker.child.signal(signal.SIGTERM)
    assert broker.child.wait(3.0) == 0, broker.child.output()


@pytest.mark.parametrize("attempt", range(5))
def test_sigterm_right_after_ready_is_heard(broker, attempt):
    """Who waits for the line `ready` may rely on it: from there on SIGTERM drains."""
    broker.may_be_gone = True
    broker.child.signal(signal.SIGTERM)
    assert broker.child.wait(3.0) == 0, broker.child.output()


def test_idle_workers_are_told_when_the_broker_ends(broker):
    worker = broker.idle_worker("echo")
    broker.may_be_gone = True
    broker.child.signal(signal.SIGTERM)
    worker.expect_disconnect()
    assert broker.child.wait(5.0) == 0, broker.child.output()


def test_a_draining_broker_takes_nothing_new(broker):
    """New calls are refused with the reason while the last one is finished."""
    worker, client = broker.worker("echo"), broker.client()
    client.request("echo", b"x")
    job = worker.take()
    broker.may_be_gone = True
    broker.child.signal(signal.SIGTERM)
    wait_until(lambda: not _ready(broker), "not ready any more")
    try:
        answer = broker.post("echo", b"new", timeout="1s")
        assert answer.status == 503 and answer.json()["reason"] == "draining"
    except ConnectionError:
        pass
    client.request("echo", b"too late")
    worker.answer(job, b"last")
    assert client.reply().body == [b"last"]
    assert broker.child.wait(10.0) == 0, broker.child.output()
    assert (
        not worker.socket.poll(0) or worker._decode(worker.recv())[0] == worker.dialect.disconnect
    )


def full_queue(broker):
    """A service with one request leased and one waiting."""
    worker, client = broker.idle_worker("echo"), broker.client()
    client.request("echo", b"leased")
    job = worker.take()
    client.request("echo", b"waiting")
    broker.wait_service("echo", waiting=1, leased=1)
    return worker, client, job


@pytest.mark.parametrize("how", ["reload", "SIGHUP"])
def test_reload_changes_a_limit_live(start, how):
    """The new bound holds for what comes; what is there stays; nobody is disconnected."""
    broker = start("[defaults]\nqueue_max = 1000\n")
    worker, client, job = full_queue(broker)
    assert broker.post("echo", b"waits", timeout="200ms").status == 504
    broker.config.write_text("[defaults]\nqueue_max = 1\n")
    if how == "reload":
        done = run("reload", "--http", broker.http_url)
        assert done.returncode == 0, done.stderr
    else:
        broker.child.signal(signal.SIGHUP)
    wait_until(
        lambda: broker.post("echo", b"refused", timeout="200ms").status == 503, "the new bound"
    )
    worker.answer(job, b"one")
    worker.serve_one(b"two")
    assert [client.reply().body for _ in range(2)] == [[b"one"], [b"two"]]


def test_reload_of_a_wrong_file_changes_nothing(start):
    """All or nothing: the good line beside the bad one does not count either."""
    broker = start("[defaults]\nqueue_max = 1000\n")
    worker, client, job = full_queue(broker)
    broker.config.write_text("[defaults]\nqueue_max = 1\nqueue_mx = 2\n")
    done = run("reload", "--http", broker.http_url)
    assert done.returncode != 0
    assert b"queue_mx" in done.stdout + done.stderr
    assert broker.post("echo", b"waits", timeout="200ms").status == 504
    worker.answer(job, b"one")
    assert client.reply().body == [b"one"]


BAD_FILES = {
    "unknown key": ('[mdp]\nheartbeat = "3s"\nhartbeat = "3s"\n', 3, "hartbeat"),
    "unknown table": ("[defaults]\nmax_deliveries = 3\n[deflts]\nx = 1\n", 3, "deflts"),
    "unknown key of a service": ('\n[services."echo"]\nqueue = 3\n', 3, "queue"),
    "wrong type": ("[mdp]\nliveness = 3\nheartbeat = true\n", 3, "true"),
    "wrong duration": ('[mdp]\nheartbeat = "3 fortnights"\n', 2, "3 fortnights"),
    "out of range": ("[mdp]\nliveness = 0\n", 2, "liveness"),
    "wrong size": ('[limits]\n\n\nframe_bytes = "many"\n', 4, "many"),
    "no TOML": ("[mdp]\nheartbeat\n", 2, ""),
}


@pytest.mark.parametrize("text, line, named", BAD_FILES.values(), ids=BAD_FILES)
def test_check_names_file_and_line(tmp_path, text, line, named):
    file = tmp_path / "house.toml"
    file.write_text(text)
    done = run("check", file)
    said = (done.stdout + done.stderr).decode()
    assert done.returncode != 0, said
    assert re.search(rf"house\.toml:{line}\b", said), said
    assert named in said


@pytest.mark.parametrize("text, line, named", list(BAD_FILES.values())[:2], ids=list(BAD_FILES)[:2])
def test_serve_refuses_a_wrong_file(tmp_path, text, line, named):
    file = tmp_path / "house.toml"
    file.write_text(text)
    done = run(
        "serve",
        "-c",
        file,
        "--mdp",
        "tcp://127.0.0.1:0",
        "--stomp",
        "off",
        "--http",
        "127.0.0.1:0",
        "--data",
        tmp_path / "data",
    )
    said = (done.stdout + done.stderr).decode()
    assert done.returncode != 0, said
    assert re.search(rf"house\.toml:{line}\b", said), said
    assert named in said


def test_check_accepts_what_this_suite_configures(tmp_path):
    file = tmp_path / "house.toml"
    file.write_text(EVERY_KEY)
    done = run("check", file)
    assert done.returncode == 0, done.stderr


EVERY_KEY = """
[mdp]
heartbeat = "3s"
liveness = 3
[[mdp.listen]]
endpoint = "tcp://127.0.0.1:0"
mdp02_service_frame = false
[http]
token = "long enough a secret"
[limits]
frame_bytes = "64MiB"
message_bytes = "64MiB"
frames = 1024
connections = 100000
handshake = "5s"
out_bytes = "256MiB"
[defaults]
max_deliveries = 3
queue_max = 1000000
queue_bytes = "1GiB"
give_up = "never"
execution_limit = "never"
answer_refusals = false
[services."echo"]
max_deliveries = 1
give_up = "2s"
execution_limit = "1m"
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ["serve", "--nonsense"],
        ["call"],
        ["work", "echo"],
        ["nonsense"],
        ["check", "no-such-file.toml"],
        ["call", "echo", "x", "--mdp", "nowhere"],
        ["call", "echo", "x", "--timeout", "soon"],
    ],
    ids=" ".join,
)
def test_wrong_usage_fails_with_a_word_on_stderr(arguments):
    done = run(*arguments)
    assert done.returncode != 0 and done.stderr


def test_a_port_in_use_is_said(broker, tmp_path):
    free = {"--mdp": "tcp://127.0.0.1:0", "--stomp": "off", "--http": "127.0.0.1:0"}
    for taken, endpoint in (("--mdp", broker.endpoint), ("--stomp", broker.stomp_endpoint)):
        flags = [word for pair in (free | {taken: endpoint}).items() for word in pair]
        done = run("serve", *flags, "--data", tmp_path / "data")
        assert done.returncode != 0
        assert endpoint.encode() in done.stderr
        assert (b"--stomp off" in done.stderr) == (taken == "--stomp")


def test_serve_with_http_off(tmp_path):
    """`--http off`: MDP alone, and only that is announced."""
    child = Child(
        [
            binary(),
            "serve",
            "--mdp",
            "tcp://127.0.0.1:0",
            "--stomp",
            "off",
            "--http",
            "off",
            "--data",
            tmp_path / "data",
        ],
        env=quiet_environment(),
        cwd=tmp_path,
    )
    try:
        child.line(lambda line: line == "ready")
        assert [line.split()[1] for line in child.stdout if line.startswith("listening")] == ["mdp"]
    finally:
        assert child.terminate() == 0, child.output()


def test_binding_elsewhere_without_authentication_is_refused(tmp_path):
    """Loopback by default; the open world only for those who say `insecure`."""
    done = run(
        "serve", "--mdp", "tcp://0.0.0.0:0", "--http", "127.0.0.1:0", "--data", tmp_path / "data"
    )
    assert done.returncode != 0 and b"insecure" in done.stdout + done.stderr
    flags = ["--mdp", "off", "--stomp", "tcp://0.0.0.0:0", "--http", "off"]
    done = run("serve", *flags, "--data", tmp_path / "data")
    assert done.returncode != 0 and b"insecure" in done.stderr


def test_help_and_version():
    for arguments in (["--help"], ["serve", "--help"], ["call", "--help"], ["--version"]):
        done = run(*arguments)
        assert done.returncode == 0 and done.stdout, arguments
    for word in ("serve", "call", "work", "services", "workers", "drain", "reload", "check"):
        assert word in run("--help").stdout.decode()


def test_concurrent_calls(broker):
    """Commands are peers like any other: ten at once, each with its own reply."""
    command(broker, "work", "echo", "--concurrency", "4", "--mdp", broker.endpoint, "--", "cat")
    broker.wait_workers("echo", 1)
    said = {}

    def call(number):
        said[number] = run(
            "call", "echo", f"body-{number}", "--mdp", broker.endpoint
        ).stdout.strip()

    callers = [threading.Thread(target=call, args=(number,)) for number in range(10)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert said == {number: f"body-{number}".encode() for number in range(10)}
