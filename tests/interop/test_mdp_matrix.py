"""Every defect that probing the old Majordomo brokers found, as a test that this one is free of it.

One test per row of the probe matrix, in its order and under its name.
"""

import pytest

import mdp
from broker import FAST_INTERVAL
from mdp import EMPTY, V01, Reply
from process import wait_until


def harmless(broker, worker, *messages):
    """Sends the messages as they are; the broker lives on and serves others."""
    for frames in messages:
        worker.send(*frames)
    broker.check_serving()


def test_body_frames_kept__empty_body_frame__queue_before_worker(broker):
    """Bodies cross unchanged, frame by frame, empty ones too, and a request may come first."""
    bodies = [
        [b"one"],
        [EMPTY],
        [b"a", EMPTY, b"c", EMPTY],
        [EMPTY, EMPTY],
        [b"\0\xff" * 300, b"x"],
    ]
    client = broker.client()
    for body in bodies:
        client.request("echo", *body)
    worker = broker.worker("echo")
    for body in bodies:
        job = worker.take()
        assert job.body == body
        worker.answer(job, *reversed(body), EMPTY)
        assert client.reply() == Reply(b"echo", [*reversed(body), EMPTY])


def test_worker_order(broker):
    """The worker that has been free the longest gets the next request."""
    workers = [broker.idle_worker("echo") for _ in range(3)]
    client = broker.client()
    order = []
    for turn in range(6):
        client.request("echo", str(turn))
        expected = workers[turn % 3]
        job = expected.take()
        order.append(job.body)
        expected.answer(job, *job.body)
        client.reply()
    assert order == [[str(turn).encode()] for turn in range(6)]
    # A worker that took longer went to the end of the line when it answered, not when it was asked.
    client.request("echo", b"slow")
    client.request("echo", b"quick")
    slow, quick = workers[0].take(), workers[1].take()
    workers[1].answer(quick, b"quick")
    assert client.reply().body == [b"quick"]
    workers[0].answer(slow, b"slow")
    assert client.reply().body == [b"slow"]
    for worker in (workers[2], workers[1], workers[0]):
        client.request("echo", b"again")
        worker.serve_one()
        client.reply()


def test_mmi_unknown(broker):
    """mmi.service says 404 for a name that nobody ever used."""
    assert broker.mmi("mmi.service", "nobody") == [b"404"]


def test_mmi_after_client_request_only(broker):
    """A request alone does not make a service exist: still 404."""
    client = broker.client()
    client.request("wanted", b"x")
    client.sync()
    assert broker.mmi("mmi.service", "wanted") == [b"404"]


def test_mmi_busy_worker(broker):
    """A service whose every worker is busy exists: 200."""
    worker = broker.worker("echo")
    broker.client().request("echo", b"x")
    worker.take()
    assert broker.mmi("mmi.service", "echo") == [b"200"]


def test_mmi_after_disconnect(broker):
    """Once its only worker said DISCONNECT the service is gone: 404."""
    worker = broker.idle_worker("echo")
    assert broker.mmi("mmi.service", "echo") == [b"200"]
    worker.disconnect()
    wait_until(lambda: broker.mmi("mmi.service", "echo") == [b"404"], "404 after DISCONNECT")


@pytest.mark.parametrize("name", ["mmi.x", "mmi.service", "mmi."])
def test_mmi_x_registration_refused(broker, name):
    """Reserved names cannot be registered, and go on being answered by the broker."""
    worker = broker.worker(name)
    worker.expect_disconnect()
    expected = [b"404"] if name == "mmi.service" else [b"501"]
    assert broker.mmi(name, "nobody") == expected


@pytest.mark.parametrize("name", ["mail", "m", "mmi", "i.x", ".x", "immi.x", "mm1.x"])
def test_service_mail_usable(broker, name):
    """Only the prefix `mmi.` is reserved, not its letters."""
    worker = broker.worker(name)
    client = broker.client()
    client.request(name, b"x")
    worker.serve_one()
    assert client.reply() == Reply(name.encode(), [b"x"])


def test_names_differing_after_nul_kept_apart(broker):
    """Service names are octets: two that differ behind a NUL are two services."""
    one, two = broker.worker(b"svc\0one"), broker.worker(b"svc\0two")
    client = broker.client()
    client.request(b"svc\0two", b"for two")
    assert two.serve_one().body == [b"for two"]
    assert client.reply() == Reply(b"svc\0two", [b"for two"])
    one.idle()
    assert broker.mmi("mmi.service", b"svc") == [b"404"]
    assert broker.mmi("mmi.service", b"svc\0one") == [b"200"]


def test_empty_service_name(broker):
    """The empty name, asked for or registered, harms nobody."""
    client = broker.client()
    client.request(b"", b"x")
    worker = broker.worker(b"")
    broker.mmi("mmi.service", b"")
    broker.check_serving()
    worker.close()
    client.close()
    broker.check_serving()


def test_2nd_ready_idle_disconnect(broker):
    """READY is said once per connection: the second gets DISCONNECT."""
    worker = broker.idle_worker("echo")
    worker.ready("echo")
    worker.expect_disconnect()
    broker.wait_workers("echo", 0)


def test_2nd_ready_busy(broker):
    """The same from a busy worker, whose request then goes to another."""
    worker = broker.worker("echo")
    client = broker.client()
    client.request("echo", b"x")
    worker.take()
    worker.ready("echo")
    worker.expect_disconnect()
    broker.worker("echo").serve_one(b"second")
    assert client.reply() == Reply(b"echo", [b"second"])


@pytest.mark.parametrize("octet", [V01.heartbeat, V01.reply], ids=["HEARTBEAT", "REPLY"])
def test_heartbeat_reply_before_ready_disconnect(broker, octet):
    """A peer that was never registered is told so."""
    worker = broker.worker()
    if octet == V01.reply:
        worker.command(octet, b"client", EMPTY, b"x")
    else:
        worker.command(octet)
    worker.expect_disconnect()


def test_unknown_octet_from_registered_worker(broker):
    """A command nobody knows is dropped; the worker stays."""
    worker = broker.idle_worker("echo")
    for octet in (b"\x00", b"\x07", b"\xff", b"", b"\x01\x01", b"READY"):
        worker.command(octet, b"echo", EMPTY, b"x")
    worker.idle()
    client = broker.client()
    client.request("echo", b"x")
    worker.serve_one()
    assert client.reply().body == [b"x"]


def test_request_octet_from_worker_disconnect(broker):
    """REQUEST is the broker's to say: a worker that says it gets DISCONNECT."""
    worker = broker.idle_worker("echo")
    worker.command(V01.request, b"client", EMPTY, b"x")
    worker.expect_disconnect()
    broker.wait_workers("echo", 0)


def test_unknown_octet_then_reply(broker):
    """A dropped command leaves nothing behind that the next one could fall over."""
    registered, stranger = broker.idle_worker("echo"), broker.worker()
    for worker in (registered, stranger):
        worker.command(b"\x7f", b"x")
        worker.command(V01.reply, b"client", EMPTY, b"x")
        worker.expect_disconnect()
    broker.check_serving()


@pytest.mark.parametrize("registered", [False, True])
def test_1_frame(broker, registered):
    """A message of one frame, whatever is in it."""
    worker = broker.idle_worker("echo") if registered else broker.worker()
    harmless(
        broker, worker, *[[f] for f in (b"x", EMPTY, b"MDPC01", b"MDPW01", b"MDPC02", b"MDPW02")]
    )


def test_delimiter_and_client_header_only(broker):
    """A client message that ends behind its header."""
    harmless(broker, broker.worker(), [EMPTY, b"MDPC01"], [b"MDPC02"], [EMPTY, b"MDPC02"])
    req = broker.client(req=True)
    req.send(b"MDPC01")
    broker.check_serving()


def test_client_no_service_frame_content__no_body(broker):
    """A client message without service content, and one without any body frame.

    The latter is served: with no body or with one empty frame, and answered either way.
    """
    harmless(broker, broker.worker(), [EMPTY, b"MDPC01", EMPTY], [EMPTY, b"MDPC01", EMPTY, EMPTY])
    client, worker = broker.client(), broker.worker("echo")
    client.request("echo")
    job = worker.take()
    assert job.body in ([], [EMPTY])
    worker.answer(job)
    reply = client.reply()
    assert reply.service == b"echo" and reply.body in ([], [EMPTY])
    broker.check_serving()


@pytest.mark.parametrize("registered", [False, True])
def test_worker_no_command(broker, registered):
    """A worker message that ends behind its header."""
    worker = broker.idle_worker("echo") if registered else broker.worker()
    harmless(broker, worker, [EMPTY, b"MDPW01"], [b"MDPW02"], [EMPTY, b"MDPW02"])


def test_ready_without_service(broker):
    """READY that names nothing registers nothing."""
    harmless(broker, broker.worker(), [EMPTY, b"MDPW01", V01.ready])
    harmless(broker, broker.worker(), [b"MDPW02", mdp.V02.ready])
    broker.wait_metric("maitred_workers", 0)


def test_frame_0_not_empty(broker):
    """Something stands where the delimiter belongs."""
    harmless(
        broker,
        broker.worker(),
        [b"junk", b"MDPC01", b"echo", b"x"],
        [b"junk", b"MDPW01", V01.ready, b"echo"],
        [b"junk", EMPTY, b"MDPW01", V01.ready, b"echo"],
        [b"junk"] * 40,
        [EMPTY] * 40,
    )


def test_reply_without_address(broker):
    """REPLY that says no address harms nobody, and the request it was for is still answered."""
    worker = broker.worker("echo")
    client = broker.client()
    client.request("echo", b"x")
    worker.take()
    worker.command(V01.reply)
    broker.check_serving()
    worker.close()
    broker.worker("echo").serve_one(b"good")
    assert client.reply().body == [b"good"]
    client.quiet()


def test_reply_without_delimiter_behind_the_address(broker):
    """The old PHP worker leaves the empty frame out behind the address; its replies count."""
    worker = broker.worker("echo")
    client = broker.client()
    client.request("echo", b"x")
    worker.command(V01.reply, worker.take().address, b"from", EMPTY, b"php")
    assert client.reply() == Reply(b"echo", [b"from", EMPTY, b"php"])
    # With the delimiter in place an empty first body frame is body.
    client.request("echo", b"y")
    worker.answer(worker.take(), EMPTY, b"kept")
    assert client.reply() == Reply(b"echo", [EMPTY, b"kept"])


@pytest.mark.parametrize("busy", [False, True])
def test_unsolicited_reply_reaches_another_services_client(broker, busy):
    """A worker cannot answer what another holds, even when it knows the other's token."""
    holder, thief = broker.worker("held"), broker.idle_worker("other")
    client, other = broker.client(), broker.client()
    client.request("held", b"secret")
    job = holder.take()
    if busy:
        other.request("other", b"x")
        thief.take()
    thief.command(V01.reply, job.address, EMPTY, b"forged")
    thief.expect_disconnect()
    client.quiet()
    holder.answer(job, b"genuine")
    assert client.reply() == Reply(b"held", [b"genuine"])
    client.quiet()
    if busy:
        broker.worker("other").serve_one(b"fine")
        assert other.reply().body == [b"fine"]


def test_extra_reply_2_jobs_at_once(broker):
    """A second REPLY to one request earns DISCONNECT, not a second request."""
    worker = broker.worker("echo")
    client = broker.client()
    for body in (b"1", b"2", b"3"):
        client.request("echo", body)
    job = worker.take()
    worker.answer(job, b"first")
    worker.answer(job, b"again")
    # The reply made it free for the next request; the extra one ends its service.
    seen = []
    with pytest.raises(mdp.Disconnected):
        while True:
            seen.append(worker.take().body)
    assert seen in ([], [[b"2"]])
    successor = broker.worker("echo")
    assert [successor.serve_one().body for _ in range(2)] == [[b"2"], [b"3"]]
    assert [client.reply().body for _ in range(3)] == [[b"first"], [b"2"], [b"3"]]
    client.quiet()


def test_2_extra_replies_disconnect_request(broker):
    """After two extra REPLYs and a DISCONNECT nothing of the worker is left to get a request."""
    worker = broker.worker("echo")
    client = broker.client()
    client.request("echo", b"1")
    job = worker.take()
    for _ in range(3):
        worker.answer(job, b"one")
    worker.disconnect()
    assert client.reply().body == [b"one"]
    broker.wait_workers("echo", 0)
    client.request("echo", b"2")
    client.sync()
    broker.worker("echo").serve_one(b"two")
    assert client.reply().body == [b"two"]
    broker.check_serving()


@pytest.mark.parametrize("before_ready", [False, True])
def test_silence_after_disconnect(fast, before_ready):
    """To a worker that said DISCONNECT nothing is said any more: no beats, no DISCONNECT back."""
    worker = fast.worker() if before_ready else fast.idle_worker("echo")
    worker.disconnect()
    fast.wait_workers("echo", 0)
    while worker.socket.poll(0):  # beats from before it was heard
        worker.recv()
    client = fast.client()
    client.request("echo", b"x")
    client.sync()
    worker.quiet(6 * FAST_INTERVAL)
    fast.check_serving()


def test_busy_worker_disconnects_job_retried(broker):
    """A busy worker that says DISCONNECT hands its request back at once."""
    leaver = broker.worker("echo")
    client = broker.client()
    client.request("echo", b"x")
    assert leaver.take().body == [b"x"]
    heir = broker.idle_worker("echo")
    leaver.disconnect()
    heir_job = heir.take(timeout=1.0)
    assert heir_job.body == [b"x"]
    heir.answer(heir_job, b"done")
    assert client.reply() == Reply(b"echo", [b"done"])
    leaver.quiet()


def test_busy_workers_connection_dies_job_retried(broker):
    """So does one whose connection ends without a word."""
    victim = broker.worker("echo")
    client = broker.client()
    client.request("echo", b"x")
    assert victim.take().body == [b"x"]
    heir = broker.idle_worker("echo")
    victim.close()
    job = heir.take(timeout=1.0)
    assert job.body == [b"x"]
    heir.answer(job, b"done")
    assert client.reply() == Reply(b"echo", [b"done"])
    client.quiet()


def test_mmi_404_after_that(broker):
    """When the busy worker that left was the only one, the service is gone at once."""
    victim = broker.worker("echo")
    broker.client().request("echo", b"x")
    victim.take()
    victim.close()
    wait_until(lambda: broker.mmi("mmi.service", "echo") == [b"404"], "404 at once", timeout=2.0)


def test_beats_to_idle_and_to_busy_workers(fast):
    """An idle worker hears from the broker every interval; a busy one hears beats at most."""
    idle, busy = fast.worker("idle"), fast.worker("busy")
    client = fast.client()
    client.request("busy", b"x")
    job = busy.take()
    for _ in range(10):
        idle.idle(FAST_INTERVAL)
        idle.heartbeat()
    # Ten intervals passed; some slack for a machine with other things to do.
    assert 5 <= idle.heartbeats <= 12, idle.heartbeats
    busy.idle(0.05)
    busy.answer(job, b"done")
    assert client.reply().body == [b"done"]


def test_dead_worker_behind_live_one_of_other_service_purged(fast):
    """Each worker's silence is its own: a live one in front shields nobody."""
    fast.serve("live", interval=FAST_INTERVAL)
    fast.wait_workers("live", 1)
    dead = fast.idle_worker("other")
    fast.wait_workers("other", 0)
    assert fast.workers("live") == 1
    client = fast.client()
    client.request("other", b"x")
    client.sync()
    fast.worker("other").serve_one(b"alive")
    assert client.reply().body == [b"alive"]
    while dead.socket.poll(0):
        octet, _ = dead._decode(dead.recv())
        assert octet != V01.request


def test_several_silent_workers_expire_together(fast):
    """Ten workers that fall silent at the same time all go, and nothing else does."""
    silent = [fast.worker("many") for _ in range(10)]
    fast.wait_workers("many", len(silent))
    fast.wait_workers("many", 0)
    assert fast.mmi("mmi.service", "many") == [b"404"]
    fast.check_serving()


def test_heartbeat_after_expiry_disconnect(fast):
    """A worker that comes back to life after it was given up learns that it must start anew."""
    worker = fast.idle_worker("echo")
    fast.wait_workers("echo", 0)
    worker.heartbeat()
    worker.expect_disconnect()
    assert fast.workers("echo") == 0


def test_requests_of_a_vanished_client_still_executed(broker):
    """Three requests of a client that closed its connection: none of them is run."""
    client = broker.client()
    for body in (b"1", b"2", b"3"):
        client.request("echo", body)
    client.sync()
    broker.wait_metric("maitred_queue_length", 3)
    client.close()
    broker.wait_metric("maitred_queue_length", 0)
    worker = broker.idle_worker("echo")
    worker.idle()
    other = broker.client()
    other.request("echo", b"mine")
    assert worker.serve_one().body == [b"mine"]
    assert other.reply().body == [b"mine"]


def test_20000_pipelined_read_late(broker):
    """20,000 requests of 1 KiB sent before a reply is read: every reply arrives, in order."""
    count, filling = 20_000, b"." * 1018
    broker.serve("echo")
    broker.wait_workers("echo", 1)
    client = broker.client()
    for number in range(count):
        client.request("echo", b"%06d" % number + filling)
    # Late: the broker has answered at least a good part of them by then.
    wait_until(
        lambda: broker.metric("maitred_requests_total") >= 2000, "replies waiting", 30.0, 0.1
    )
    for number in range(count):
        (body,) = client.reply(timeout=20.0).body
        assert body[:6] == b"%06d" % number and len(body) == 1024
    client.quiet(0.1)
