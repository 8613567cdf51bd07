"""Paranoid Pirate queues: old clients and workers, unchanged, in both dialects."""

import subprocess
import sys
import threading
import time

import pytest

import ppp
from broker import HERE, WorkerProcess, binary, quiet_environment
from mdp import Reply
from process import Child, wait_until
from ppp import BOTH, OCTETS, TEXT

QUEUE = """
[[paranoid_pirate]]
frontend = "tcp://127.0.0.1:0"
backend = "tcp://127.0.0.1:0"
service = "echo"
"""
INTERVAL = 0.2
FAST = QUEUE + 'heartbeat = "200ms"\n'
PAUSE = FAST + 'when_idle = "pause"\n'
both = pytest.mark.parametrize("letters", BOTH.values(), ids=BOTH)


@pytest.fixture
def queue(start):
    """A queue that beats every 200 ms."""
    return start(FAST)


def client(broker, **keywords):
    return broker.own(ppp.Client(broker.context, broker.front, **keywords))


def worker(broker, letters=OCTETS, **keywords):
    """A worker by hand, registered once this returns."""
    before = broker.workers("echo")
    one = broker.own(ppp.Worker(broker.context, broker.back, letters, **keywords)).ready()
    broker.wait_workers("echo", before + 1)
    return one


def serve(broker, handler=lambda body: body, **keywords):
    keywords = {"interval": INTERVAL, "first_wait": INTERVAL} | keywords
    one = ppp.ServiceThread(broker.context, broker.back, handler, **keywords)
    return broker.own(one)


class Process(WorkerProcess):
    def __init__(self, endpoint, *arguments):
        Child.__init__(self, [sys.executable, HERE / "ppp.py", endpoint, *arguments])


def process(broker, *arguments):
    """An old worker in a process of its own, registered once this returns."""
    before = broker.workers("echo")
    arguments = ("--interval", INTERVAL, "--wait", INTERVAL, *arguments)
    child = broker.own(Process(broker.back, *arguments))
    broker.wait_workers("echo", before + 1, timeout=10.0)
    return child


@both
def test_an_old_system_runs_unchanged(start, letters):
    """Four workers with the old intervals, six lazy pirates: everybody gets each answer once."""
    broker = start(QUEUE)
    workers = [serve(broker, letters=letters, interval=1.0, first_wait=1.0) for _ in range(4)]
    broker.wait_workers("echo", 4)
    pirates = [ppp.LazyPirate(broker.context, broker.front, f"p{i}") for i in range(6)]
    answered = []

    def sail(pirate):
        answered.append(sum(pirate.call() for _ in range(100)))
        pirate.close()

    threads = [threading.Thread(target=sail, args=(pirate,)) for pirate in pirates]
    [thread.start() for thread in threads]
    [thread.join(timeout=40.0) for thread in threads]
    assert answered == [100] * 6
    assert [pirate.attempts for pirate in pirates] == [100] * 6
    assert sum(one.service.served for one in workers) == 600
    assert min(one.service.served for one in workers) > 50, "turns were not taken"
    # They hear the queue in their own letters, and stay.
    time.sleep(4.0)
    assert broker.workers("echo") == 4
    assert [(one.service.conversations, one.service.invalid) for one in workers] == [(1, 0)] * 4


def test_each_worker_is_answered_in_its_own_letters(queue):
    octets, text = worker(queue, OCTETS), worker(queue, TEXT)
    for one in (octets, text):
        one.heartbeat()
        one.idle(2.5 * INTERVAL)
        assert one.heartbeats >= 1


def test_the_least_recently_used_worker_is_next(queue):
    workers = [worker(queue, letters) for letters in (OCTETS, TEXT, OCTETS)]
    one = client(queue)
    for turn in range(3):
        for at in (0, 1, 2):
            one.request(f"{turn}-{at}")
            assert workers[at].serve_one() == [b"%d-%d" % (turn, at)]
            one.reply()


@both
def test_any_body_and_any_stack_comes_through(queue, letters):
    one = worker(queue, letters)
    bodies = [[b""], [b"", b""], [b"a", b"", b"c"], [b"x" * 300_000, b"y"], [letters.ready]]
    for asker in (client(queue), client(queue, req=False), client(queue, req=False, stack=[b"id"])):
        for body in bodies:
            asker.request(*body)
            assert one.serve_one() == body
            assert asker.reply() == body


def test_requests_wait_for_a_worker(queue):
    clients = [client(queue) for _ in range(20)]
    for at, one in enumerate(clients):
        one.request(f"{at}")
        queue.wait_service("echo", waiting=at + 1)
    one = worker(queue)
    assert [one.serve_one() for _ in clients] == [[b"%d" % at] for at in range(20)]
    assert [asker.reply() for asker in clients] == [[b"%d" % at] for at in range(20)]


@both
def test_a_killed_workers_request_goes_to_another(queue, letters):
    name = next(name for name, its in BOTH.items() if its == letters)
    victim = process(queue, "--letters", name, "--busy", 30)
    one = client(queue)
    one.request("precious")
    victim.busy()
    heir = worker(queue, letters)
    victim.kill()
    assert heir.serve_one(timeout=2.0) == [b"precious"]
    assert one.reply() == [b"precious"]
    assert queue.metric("maitred_redeliveries_total") == 1


def test_a_request_that_kills_workers_is_not_served_for_ever(queue):
    processes = [process(queue, "--die") for _ in range(4)]
    one = client(queue)
    one.request("poison")
    queue.wait_metric("maitred_refusals_total", 1, reason="workers_failed")
    assert sum(child.running() for child in processes) == 1


def test_a_frozen_busy_worker_loses_its_request_and_comes_back(queue):
    """SIGSTOP: PONGs stop, the request moves on; after SIGCONT its late answer goes nowhere."""
    frozen = process(queue, "--busy", 1, "--reply", "late")
    one = client(queue)
    one.request("x")
    frozen.busy()
    frozen.freeze()
    heir = serve(queue, lambda body: b"heir")
    assert one.reply(timeout=10.0) == [b"heir"]
    heir.close()
    frozen.thaw()
    one.quiet(1.5)
    assert one.call("y", timeout=15.0) == [b"late"]


@both
def test_a_frozen_idle_worker_serves_again_when_it_thaws(queue, letters):
    name = next(name for name, its in BOTH.items() if its == letters)
    frozen = process(queue, "--letters", name)
    frozen.freeze()
    queue.wait_workers("echo", 0)
    one = client(queue)
    one.request("x")
    queue.wait_service("echo", waiting=1)
    frozen.thaw()
    assert one.reply(timeout=15.0) == [b"x"]


@both
def test_nothing_a_busy_worker_says_earns_it_a_second_request(queue, letters):
    one, first, second = worker(queue, letters), client(queue), client(queue)
    first.request("1")
    address, _ = one.take()
    second.request("2")
    for _ in range(3):
        one.heartbeat()
        one.ready()
        one.answer(b"r:0000000000000000", "stray")
        one.send(b"junk")
    one.idle(4 * INTERVAL)
    assert queue.workers("echo") == 1
    one.answer(address, "one")
    assert first.reply() == [b"one"]
    assert one.serve_one("two") == [b"2"]
    assert second.reply() == [b"two"]
    first.quiet(0.1)


def test_ready_said_twice_is_one_offer(queue):
    one = worker(queue)
    one.ready()
    one.ready()
    clients = [client(queue) for _ in range(2)]
    clients[0].request("1")
    address, _ = one.take()
    clients[1].request("2")
    one.idle()
    assert queue.service("echo")["workers"] == 1
    one.answer(address, "1")
    one.serve_one()


def test_a_heartbeat_alone_registers_nobody(queue):
    stranger = queue.own(ppp.Worker(queue.context, queue.back))
    stranger.heartbeat()
    stranger.answer(b"r:0000000000000000", "x")
    queue.wait_metric("maitred_garbage_total", 2)
    one = client(queue)
    one.request("x")
    stranger.quiet(3 * INTERVAL)
    stranger.ready()
    stranger.serve_one()


def test_a_silent_idle_worker_is_given_up(queue):
    silent, talker = worker(queue), worker(queue, TEXT)
    def only_one():
        talker.heartbeat()
        return queue.workers("echo") == 1
    wait_until(only_one, "the silent worker given up", every=INTERVAL / 2)
    one = client(queue)
    one.request("x")
    assert talker.serve_one() == [b"x"]
    silent.idle()


def test_old_peers_survive_the_queues_restart(start):
    """kill -9 of the queue: on the same ports again, workers and lazy pirates find it."""
    broker = start(FAST)
    ends = [end.rsplit(":", 1)[1] for end in broker.queues[0]]
    workers = [serve(broker, letters=letters) for letters in (OCTETS, TEXT)]
    pirate = ppp.LazyPirate(broker.context, broker.front, "p", timeout=0.5, retries=40)
    assert pirate.call()
    broker.kill()
    text = FAST.replace("127.0.0.1:0", f"127.0.0.1:{ends[0]}", 1)
    broker.config.write_text(text.replace("127.0.0.1:0", f"127.0.0.1:{ends[1]}"))
    broker.restart()
    assert [end.rsplit(":", 1)[1] for end in broker.queues[0]] == ends
    broker.wait_workers("echo", 2, timeout=15.0)
    assert all(pirate.call() for _ in range(10))
    assert [one.service.conversations for one in workers] == [2, 2]
    pirate.close()


def test_pause_reads_no_more_requests_than_there_are_free_workers(start):
    broker = start(PAUSE)
    clients = []
    for at in range(10):
        clients.append(client(broker))
        clients[-1].request(f"{at}")
        broker.wait_metric("maitred_messages_total", at + 1)
    entry = broker.service("echo")
    assert (entry["waiting"], entry["requests"]) == (0, 0), entry
    one = worker(broker)
    # In turn, whoever came first.
    assert [one.serve_one() for _ in clients] == [[b"%d" % at] for at in range(10)]
    assert [asker.reply() for asker in clients] == [[b"%d" % at] for at in range(10)]


@pytest.mark.parametrize("config", [FAST, PAUSE], ids=["queue", "pause"])
def test_thousands_of_tries_leave_nothing_behind(start, config):
    """Lazy pirates that give up three thousand times: no connection, no request, no memory."""
    broker = start(config)

    def give_up(batches):
        for _ in range(batches):
            tries = [ppp.Client(broker.context, broker.front) for _ in range(50)]
            [one.request(f"{at}") for at, one in enumerate(tries)]
            broker.wait_metric("maitred_connections", 50, timeout=10.0)
            [one.close() for one in tries]
            broker.wait_metric("maitred_connections", 0, timeout=10.0)

    give_up(10)
    before = broker.rss_kib()
    give_up(50)
    assert broker.metric("maitred_in_house") == broker.metric("maitred_queue_length") == 0
    assert broker.rss_kib() - before < 8 * 1024
    # Nobody works for those that are gone.
    one = worker(broker)
    one.idle()
    last = client(broker)
    last.request("still")
    assert one.serve_one() == [b"still"]
    assert last.reply() == [b"still"]


def test_a_client_that_left_is_not_answered_on_its_next_try(queue):
    one = worker(queue)
    early = ppp.Client(queue.context, queue.front)
    early.request("1")
    address, _ = one.take()
    early.close()
    queue.wait_metric("maitred_withdrawals_total", 1)
    late = client(queue)
    late.request("2")
    one.answer(address, "for nobody")
    assert one.serve_one("two") == [b"2"]
    assert late.reply() == [b"two"]
    late.quiet(0.1)


def test_majordomo_and_http_callers_reach_old_workers(queue):
    serve(queue, lambda body: b"pirate " + body)
    queue.wait_workers("echo", 1)
    asker = queue.client()
    asker.request("echo", b"a")
    assert asker.reply() == Reply(b"echo", [b"pirate a"])
    assert queue.post("echo", b"b").body == b"pirate b"
    assert queue.mmi("mmi.service", "echo") == [b"200"]


def test_old_clients_reach_majordomo_workers(queue):
    queue.serve("echo", lambda body: [b"majordomo", *body])
    queue.wait_workers("echo", 1)
    assert client(queue).call("x") == [b"majordomo", b"x"]
    pirate = ppp.LazyPirate(queue.context, queue.front, "p", timeout=0.2, retries=1)
    with pytest.raises(AssertionError, match="was answered"):
        pirate.call()
    pirate.close()


def test_all_kinds_of_workers_share_one_service(queue):
    served = {name: worker(queue, letters) for name, letters in BOTH.items()}
    served["mdp"] = queue.idle_worker("echo")
    askers = [client(queue), queue.client(), client(queue, req=False)]
    askers[0].request("0")
    askers[2].request("2")
    served["octets"].serve_one()
    served["text"].serve_one()
    assert (askers[0].reply(), askers[2].reply()) == ([b"0"], [b"2"])
    askers[1].request("echo", b"1")
    served["mdp"].serve_one()
    assert askers[1].reply().body == [b"1"]


def test_people_see_what_workers_speak(queue):
    worker(queue, OCTETS), worker(queue, TEXT)
    queue.idle_worker("echo")
    listed = queue.get("/v1/workers").json()["workers"]
    assert sorted(one["protocol"] for one in listed) == ["mdp/0.1", "ppp", "ppp/text"]
    assert queue.service("echo")["protocols"] == {"mdp/0.1": 1, "ppp": 1, "ppp/text": 1}
    for protocol, count in [("mdp/0.1", 1), ("mdp/0.2", 0), ("ppp", 1), ("ppp/text", 1)]:
        assert queue.metric("maitred_protocol_workers", protocol=protocol) == count
    table = subprocess.run(
        [binary(), "workers", "--http", queue.http_url], capture_output=True, text=True,
        timeout=20, env=quiet_environment(),
    )
    assert "ppp/text" in table.stdout, table


def test_work_and_call_speak_to_a_queue(queue):
    work = [binary(), "work", "echo", "--ppp", queue.back, "--heartbeat", "200ms", "--"]
    child = queue.own(Child([*work, "tr", "a-z", "A-Z"], env=quiet_environment()))
    child.close = child.terminate
    queue.wait_workers("echo", 1)
    call = [binary(), "call", "echo", "hello", "--ppp", queue.front]
    done = subprocess.run(call, capture_output=True, timeout=20, env=quiet_environment())
    assert (done.returncode, done.stdout) == (0, b"HELLO\n"), done.stderr
    assert client(queue).call("old") == [b"OLD"]
    time.sleep(5 * INTERVAL)
    assert queue.get("/v1/workers").json()["workers"][0]["age_ms"] > 800, "it was given up"
    many = subprocess.run([*work[:-1], "-n", "2", "--", "cat"], capture_output=True, timeout=20)
    assert many.returncode == 2 and b"one request at a time" in many.stderr, many


def test_a_call_nobody_serves_times_out(queue):
    call = [binary(), "call", "echo", "x", "--ppp", queue.front, "--timeout", "300ms"]
    done = subprocess.run(call, capture_output=True, timeout=20, env=quiet_environment())
    assert done.returncode == 3, done
    queue.wait_service("echo", waiting=0)


def test_several_queues_each_with_its_service(start):
    broker = start(FAST + FAST.replace('"echo"', '"other"'))
    assert len(broker.queues) == 2
    for (front, back), name in zip(broker.queues, ("one", "two")):
        ppp.Worker(broker.context, back)
        one = broker.own(ppp.Worker(broker.context, back)).ready()
        asker = broker.own(ppp.Client(broker.context, front))
        asker.request(name)
        assert one.serve_one() == [name.encode()]
        assert asker.reply() == [name.encode()]
    assert (broker.workers("echo"), broker.workers("other")) == (1, 1)


def test_reload_changes_heartbeats_but_not_endpoints(queue):
    one = worker(queue)
    queue.config.write_text(FAST.replace("200ms", "1h"))
    reload = [binary(), "reload", "--http", queue.http_url]
    done = subprocess.run(reload, capture_output=True, timeout=20, env=quiet_environment())
    assert done.stdout == b"applied\n", done
    time.sleep(5 * INTERVAL)
    assert queue.workers("echo") == 1, "given up by the old rules"
    queue.config.write_text(FAST + FAST.replace('"echo"', '"other"'))
    done = subprocess.run(reload, capture_output=True, timeout=20, env=quiet_environment())
    assert b"paranoid_pirate changed: counts from the next start on" in done.stdout, done
    asker = client(queue)
    asker.request("x")
    one.ready()
    assert one.serve_one() == [b"x"]


def test_check_refuses_a_queue_without_a_place(tmp_path):
    file = tmp_path / "maitred.toml"
    file.write_text(QUEUE.replace("127.0.0.1:0", "127.0.0.1:5570"))
    done = subprocess.run([binary(), "check", file], capture_output=True, text=True, timeout=20)
    assert done.returncode == 2
    assert "maitred.toml:4: paranoid_pirate.backend tcp://127.0.0.1:5570" in done.stderr, done
