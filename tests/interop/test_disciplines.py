"""How each service keeps its lines: what an operator changes live, and what peers see of it."""

import concurrent.futures

from process import wait_until
from test_cli import run


def reload(broker, text):
    broker.config.write_text(text)
    done = run("reload", "--http", broker.http_url)
    assert done.returncode == 0, done.stderr


def bodies(client, count):
    return [client.reply().body for _ in range(count)]


def test_codel_is_turned_on_for_one_live_service(start):
    """Waiting requests keep their places; the slow line then sheds, and the metrics say so."""
    broker = start()
    worker, client = broker.idle_worker("echo"), broker.client()
    names = [b"%d" % n for n in range(20)]
    for name in names:
        client.request("echo", name)
    first = worker.take()
    broker.wait_service("echo", waiting=19, discipline="drop")
    reload(
        broker,
        '[services.echo]\ndiscipline = "codel"\ntarget = "20ms"\ninterval = "60s"\n',
    )
    broker.wait_service("echo", waiting=19, discipline="codel")
    assert broker.metric("maitred_service_discipline", service="echo", discipline="codel") == 1
    assert broker.metric("maitred_service_refusals_total", service="echo", reason="overload") == 0
    # An interval of a minute drops nobody yet: nobody was lost or overtaken by the change.
    worker.answer(first, b"0")
    for name in names[1:10]:
        job = worker.take()
        assert job.body == [name]
        worker.answer(job, name)
    assert bodies(client, 10) == [[name] for name in names[:10]]
    reload(
        broker,
        '[services.echo]\ndiscipline = "codel"\ntarget = "20ms"\ninterval = "100ms"\n'
        "answer_refusals = true\n",
    )
    assert bodies(client, 1) == [[b"MAITRED-REFUSED", b"overload"]]
    wait_until(
        lambda: broker.metric("maitred_service_refusals_total", service="echo", reason="overload") > 0,
        "shedding in the metrics",
    )
    assert broker.metric("maitred_service_shedding", service="echo") == 1


def test_a_valve_lets_so_many_run(start):
    """A worker that could take ten is given two, and the next when one is answered."""
    broker = start('[services.echo]\nvalve = { kind = "concurrency", max = 2 }\n')
    worker = broker.idle_worker("echo", b"concurrency=10")
    client = broker.client()
    for n in range(4):
        client.request("echo", b"%d" % n)
    held = [worker.take(), worker.take()]
    broker.wait_service("echo", leased=2, waiting=2, shut=True)
    worker.quiet()
    worker.answer(held[1], b"1")
    third = worker.take()
    assert third.body == [b"2"]
    reload(broker, "")
    fourth = worker.take()
    assert fourth.body == [b"3"]
    for job in (held[0], third, fourth):
        worker.answer(job, job.body[0])
    assert bodies(client, 4) == [[b"1"], [b"0"], [b"2"], [b"3"]]


def test_a_breaker_refuses_while_workers_fail(start):
    broker = start(
        '[services.echo]\nvalve = { kind = "breaker", failures = 3, rest = "300ms", probes = 1 }\n'
    )
    broken = [True]

    def handler(body):
        return [b"MAITRED-FAILED", b"no disk"] if broken[0] else body

    broker.serve("echo", handler)
    broker.wait_workers("echo", 1)
    for _ in range(3):
        assert broker.post("echo", b"x").body.startswith(b"MAITRED-FAILED")
    refused = broker.post("echo", b"x")
    assert (refused.status, refused.json()["reason"]) == (503, "overload")
    assert refused.headers["retry-after"]
    broken[0] = False
    wait_until(lambda: broker.post("echo", b"well").status == 200, "the breaker to heal")
    assert broker.post("echo", b"well").body == b"well"


def test_callers_that_name_themselves_take_turns(start):
    """Ten of one caller and then one of another: the other is second, not eleventh."""
    broker = start('[services.echo]\nfair = "header"\n')
    worker = broker.idle_worker("echo")
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        pool.submit(broker.post, "echo", b"first")
        job = worker.take()
        for n in range(10):
            pool.submit(broker.post, "echo", b"many", headers={"Maitred-Fair-Key": "a"})
            broker.wait_service("echo", waiting=n + 1)
        pool.submit(broker.post, "echo", b"few", headers={"Maitred-Fair-Key": "b"})
        broker.wait_service("echo", waiting=11)
        order = []
        for _ in range(12):
            order.append(job.body[0])
            worker.answer(job, b"done")
            if len(order) < 12:
                job = worker.take()
    assert order[:3] == [b"first", b"many", b"few"]
    assert sorted(order[3:]) == [b"many"] * 9


def test_an_alarm_is_raised_and_ends(start):
    broker = start('[services.echo]\nalarm = { wait = "100ms", lasting = "100ms" }\n')
    client = broker.client()
    client.request("echo", b"x")
    broker.wait_metric("maitred_service_alarm", 1, service="echo")
    worker = broker.idle_worker("echo")
    worker.answer(worker.take(), b"y")
    assert bodies(client, 1) == [[b"y"]]
    broker.wait_metric("maitred_service_alarm", 0, service="echo")


def test_the_oldest_make_room(start):
    broker = start(
        '[services.echo]\nqueue_max = 3\nwhen_full = "drop_oldest"\nanswer_refusals = true\n'
    )
    client = broker.client()
    for n in range(5):
        client.request("echo", b"%d" % n)
    assert bodies(client, 2) == [[b"MAITRED-REFUSED", b"queue_full"]] * 2
    worker = broker.idle_worker("echo")
    for n in range(2, 5):
        job = worker.take()
        assert job.body == [b"%d" % n]
        worker.answer(job, job.body[0])
    assert bodies(client, 3) == [[b"2"], [b"3"], [b"4"]]


def test_the_newest_first_and_the_same_worker_again(start):
    broker = start('[services.echo]\norder = "lifo"\nworkers = "most_recent"\n')
    client = broker.client()
    for n in range(3):
        client.request("echo", b"%d" % n)
    broker.wait_service("echo", waiting=3)
    one = broker.idle_worker("echo")
    for n in (2, 1, 0):
        job = one.take()
        assert job.body == [b"%d" % n]
        one.answer(job, job.body[0])
    two = broker.idle_worker("echo")
    broker.wait_service("echo", offers=2)
    for _ in range(3):
        client.request("echo", b"again")
        job = two.take()
        two.answer(job, b"two")
    assert bodies(client, 6)[3:] == [[b"two"]] * 3
