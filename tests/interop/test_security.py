"""Who may come in, and what they may do: libzmq peers with CURVE and PLAIN, and worse ones."""

import os
import re
import signal
import socket
import stat
import subprocess
import threading
import time

import pytest
import zmq

import mdp
import ppp
from broker import FAST, binary, quiet_environment
from curve import Keys, Monitored, Tap, plain
from process import Child, wait_until
from rawpeer import RawPeer, command, greeting

PASSWORD = "tea for two"

# The second listener of `locked`, and so on.
NULL, CURVE, PLAIN = 0, 1, 2


@pytest.fixture
def keys(tmp_path):
    keys = Keys(tmp_path / "keys")
    for name in ("server", "ann", "bea", "eve"):
        keys.make(name)
    keys.word("ann", PASSWORD)
    return keys


def locked_config(keys, *, anonymous=True, more=""):
    open_to_all = '[principals.anonymous]\ncall = ["*"]\nserve = ["*"]\nadminister = true\n'
    return f"""
{more}
[security]
server_key = "{keys.path("server")}"
[[mdp.listen]]
endpoint = "tcp://127.0.0.1:0"
[[mdp.listen]]
endpoint = "tcp://127.0.0.1:0"
mechanism = "curve"
[[mdp.listen]]
endpoint = "tcp://127.0.0.1:0"
mechanism = "plain"
[principals.ann]
keys = ["{keys.public("ann")}"]
password_file = "{keys.directory / "ann.word"}"
call = ["*"]
serve = ["*"]
[principals.bea]
keys = ["{keys.public("bea")}"]
call = ["open.*"]
serve = ["bea"]
{open_to_all if anonymous else ""}
"""


@pytest.fixture
def locked(start, keys):
    """A broker with an open listener, one for CURVE, and one for PLAIN."""
    return start(locked_config(keys), mdp_option=False)


def run(*arguments, timeout=15.0):
    command = [str(part) for part in (binary(), *arguments)]
    environment = quiet_environment()
    return subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, env=environment
    )


def pairs(locked, keys):
    return [
        (locked.endpoints[CURVE], keys.curve("ann")),
        (locked.endpoints[PLAIN], plain("ann", PASSWORD)),
        (locked.endpoints[NULL], {}),
    ]


def test_peers_behind_every_door_find_each_other(locked, keys):
    for number, (worker_at, worker_is) in enumerate(pairs(locked, keys)):
        service = f"echo-{number}"
        locked.worker(service, endpoint=worker_at, **worker_is).quiet(0.0)
        locked.wait_workers(service, 1)
        (worker,) = locked.owned[-1:]
        for dialect in (mdp.V01, mdp.V02):
            for client_at, client_is in pairs(locked, keys):
                client = locked.client(dialect, endpoint=client_at, **client_is)
                for size in (0, 5, 300, 100_000):
                    body = os.urandom(size)
                    client.request(service, body, b"", body)
                    worker.serve_one()
                    assert client.reply().body == [body, b"", body]
                client.close()


def test_a_pipelined_client_with_curve_loses_nothing(locked, keys):
    """Line full, connection paused and resumed: sealed messages are taken up where they stood."""
    client = locked.client(endpoint=locked.endpoints[CURVE], **keys.curve("ann"))
    bodies = [os.urandom(n % 7_000) for n in range(0, 300_000, 500)]
    for number, body in enumerate(bodies):
        client.request("echo", b"%d" % number, body)
    at = locked.endpoints[CURVE]
    worker = locked.worker("echo", "concurrency=8", endpoint=at, **keys.curve("ann"))
    for _ in bodies:
        worker.serve_one()
    answers = dict(client.reply().body for _ in bodies)
    assert answers == {b"%d" % number: body for number, body in enumerate(bodies)}


def test_nothing_can_be_read_on_the_way(locked, keys):
    worker = locked.worker("echo", endpoint=locked.endpoints[CURVE], **keys.curve("ann"))
    tap = locked.own(Tap(locked.endpoints[CURVE]))
    client = locked.client(endpoint=tap.endpoint, **keys.curve("ann"))
    client.request("echo", b"a secret " * 20)
    worker.serve_one()
    assert client.reply().body == [b"a secret " * 20]
    for wire in (tap.said, tap.answered):
        assert b"a secret" not in wire and b"echo" not in wire


def test_strangers_are_told_400_and_seen(locked, keys):
    strangers = [
        (locked.endpoints[CURVE], keys.curve("eve")),
        (locked.endpoints[PLAIN], plain("ann", "tea for one")),
        (locked.endpoints[PLAIN], plain("eve", PASSWORD)),
    ]
    for number, (endpoint, options) in enumerate(strangers):
        stranger = Monitored(locked, endpoint, **options)
        event = stranger.outcome()
        if number == 0:
            assert event == (zmq.EVENT_HANDSHAKE_FAILED_AUTH, 400)
        else:
            # libzmq's PLAIN client takes every ERROR for a command it did not expect.
            assert event[0] == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
        stranger.close()
        assert locked.metric("maitred_denied_total") > number
    # The log is written by a thread of its own: it may come later than the metric.
    wait_until(
        lambda: sum("denied" in line for line in locked.child.stderr) >= 3, "three lines in the log"
    )
    log = "\n".join(locked.child.stderr)
    assert keys.public("eve") in log
    for secret in (PASSWORD, "tea for one", keys.secret("eve"), keys.secret("server")):
        assert secret not in log + "\n".join(locked.child.stdout)
    locked.check_serving()


def test_a_client_of_another_server_is_refused(locked, keys):
    stranger = Monitored(locked, locked.endpoints[CURVE], **keys.curve("ann", server="eve"))
    wait_until(lambda: locked.metric("maitred_failed_handshakes_total") > 0, "a refusal")
    stranger.close()
    wait_until(
        lambda: any("bad_box" in line and "HELLO" in line for line in locked.child.stderr), "a line"
    )
    assert locked.metric("maitred_denied_total") == 0


def test_mechanisms_must_fit(locked, keys):
    kinds = [{}, keys.curve("ann"), plain("ann", PASSWORD)]
    for door, endpoint in enumerate(locked.endpoints):
        for kind, options in enumerate(kinds):
            peer = Monitored(locked, endpoint, **options)
            event, _ = peer.outcome()
            assert (event == zmq.EVENT_HANDSHAKE_SUCCEEDED) == (door == kind), (door, kind)
            peer.close()
    locked.check_serving()


def test_a_recorded_conversation_cannot_be_played_again(locked, keys):
    served = []
    at = locked.endpoints[CURVE]
    worker = locked.worker("count", endpoint=at, **keys.curve("ann"))
    tap = locked.own(Tap(at))
    client = locked.client(endpoint=tap.endpoint, **keys.curve("ann"))
    client.request("count", b"once")
    served.append(worker.serve_one())
    client.reply()
    client.close()
    failed = locked.metric("maitred_failed_handshakes_total")
    # All at once, and step by step as the handshake would go.
    for steps in ([bytes(tap.said)], [tap.said[:64], tap.said[64:266], tap.said[266:]]):
        replay = locked.own(RawPeer(at, handshake=False))
        for step in steps:
            replay.write(bytes(step))
            time.sleep(0.05)
        replay.wait_eof()
    locked.wait_metric("maitred_failed_handshakes_total", failed + 2)
    worker.idle()
    assert locked.metric("maitred_requests_total") == len(served)


def test_flipped_bits_are_never_taken_for_a_request(locked, keys):
    at = locked.endpoints[CURVE]
    worker = locked.worker("echo", endpoint=at, **keys.curve("ann"))
    # Greeting, HELLO's box, INITIATE's cookie and box, and the request behind it.
    for place in (11, 64 + 120, 64 + 210, 64 + 202 + 120, 64 + 202 + 300, 64 + 202 + 330):

        def flip(before, octets, place=place):
            if before <= place < before + len(octets):
                octets[place - before] ^= 0x04
            return octets

        tap = locked.own(Tap(at, flip))
        client = locked.client(endpoint=tap.endpoint, reconnect_ivl=-1, **keys.curve("ann"))
        client.request("echo", b"x" * 100)
        if place == 11:
            worker.serve_one()
            client.reply()  # A higher minor version is no lie worth a refusal.
        else:
            client.quiet(0.3)
        client.close()
    worker.idle()
    locked.check_serving()


def test_a_flood_of_hellos_starves_nobody(start, keys):
    """Calls on the open listener go on, and whoever has a key gets in once the flood is over, and
    also while it lasts: those who left take no place among the handshakes that wait."""
    more = "[limits]\nhandshakes = 512\nhandshake = \"60s\"\n"
    broker = start(more + locked_config(keys), mdp_option=False)
    broker.serve("echo")
    client = broker.client()
    assert client.call("echo", b"before") == [b"before"]
    host, port = broker.endpoints[CURVE].removeprefix("tcp://").rsplit(":", 1)
    hello = greeting(mechanism=b"CURVE") + command(
        b"HELLO", b"\x01\x00" + bytes(72) + os.urandom(32) + bytes(7) + b"\x01" + os.urandom(80)
    )
    over = threading.Event()

    def flood():
        while not over.is_set():
            batch = []
            for _ in range(50):
                one = socket.create_connection((host, int(port)))
                one.sendall(hello)
                batch.append(one)
            for one in batch:
                one.close()

    threads = [threading.Thread(target=flood, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        # On a busy machine most are gone before anybody gets to compute what they said.
        wait_until(lambda: broker.metric("maitred_accepted_total") > 1_000, "a flood", 20.0)
        for number in range(100):
            assert client.call("echo", b"%d" % number, timeout=5.0) == [b"%d" % number]
        during = broker.client(endpoint=broker.endpoints[CURVE], **keys.curve("ann"))
        assert during.call("echo", b"during", timeout=30.0) == [b"during"]
    finally:
        over.set()
        for thread in threads:
            thread.join(timeout=5.0)
    late = broker.client(endpoint=broker.endpoints[CURVE], **keys.curve("ann"))
    assert late.call("echo", b"after", timeout=10.0) == [b"after"]


def test_rights_hold_by_service(locked, keys):
    at = locked.endpoints[CURVE]
    locked.serve("open.echo")
    locked.serve("closed")
    bea = locked.client(endpoint=at, **keys.curve("bea"))
    assert bea.call("open.echo", b"x") == [b"x"]
    bea.request("closed", b"x")
    bea.quiet(0.3)
    locked.wait_metric("maitred_refusals_total", 1, reason="denied")
    assert locked.metric("maitred_principal_denied_total", principal="bea") == 1
    worker = locked.worker("open.echo", endpoint=at, **keys.curve("bea"))
    worker.expect_disconnect()
    locked.worker("bea", endpoint=at, **keys.curve("bea"))
    locked.wait_workers("bea", 1)
    line = wait_until(
        lambda: [line for line in locked.child.stderr if "may not call" in line], "a line"
    )[0]
    assert 'principal="bea"' in line and 'service="closed"' in line


def test_whoever_proves_nothing_may_do_nothing_once_somebody_is_named(start, keys):
    more = "[defaults]\nanswer_refusals = true\n"
    broker = start(locked_config(keys, anonymous=False, more=more), mdp_option=False)
    at = broker.endpoints[CURVE]
    worker = broker.worker("echo", endpoint=at, **keys.curve("ann"))
    broker.wait_workers("echo", 1)
    nobody = broker.client()
    assert nobody.call("echo", b"x") == [b"MAITRED-REFUSED", b"denied"]
    assert broker.post("echo", b"x").status == 403
    assert broker.request("POST", "/v1/drain").status == 403
    ann = broker.client(endpoint=at, **keys.curve("ann"))
    ann.request("echo", b"x")
    worker.serve_one()
    assert ann.reply().body == [b"x"]


def test_tokens_stand_for_principals(start, keys):
    house, ann, bea = "the house's own", "a token for ann", "a token for bea"
    config = locked_config(keys, more=f'[http]\ntoken = "{house}"\n')
    for name, token in (("ann", ann), ("bea", bea)):
        path = keys.word(f"{name}-token", token)
        config = config.replace(f"[principals.{name}]", f'[principals.{name}]\ntoken_file = "{path}"')
    config = config.replace("[principals.ann]", "[principals.ann]\nadminister = true")
    broker = start(config, mdp_option=False)
    broker.serve("echo")
    broker.serve("open.echo")
    broker.wait_workers("echo", 1)
    broker.wait_workers("open.echo", 1)

    def status(token, service):
        headers = {"authorization": f"Bearer {token}"} if token else {}
        return broker.post(service, b"x", headers=headers).status

    assert [status(token, "echo") for token in (house, ann, bea, "", "wrong")] == [
        200, 200, 403, 401, 401,
    ]  # fmt: skip
    assert status(bea, "open.echo") == 200
    reload = [
        broker.request("POST", "/v1/reload", headers={"authorization": f"Bearer {token}"}).status
        for token in (house, ann, bea)
    ]
    assert reload == [200, 200, 403]


def test_quotas(start, keys):
    config = locked_config(keys, more="[defaults]\nanswer_refusals = true\n")
    config = config.replace("[principals.bea]", "[principals.bea]\nin_flight = 2")
    config = config.replace("[principals.ann]", "[principals.ann]\nrate = 1\nburst = 3")
    broker = start(config, mdp_option=False)
    at = broker.endpoints[CURVE]
    bea = broker.client(endpoint=at, **keys.curve("bea"))
    for _ in range(3):
        bea.request("open.x", b"x")
    assert bea.reply().body == [b"MAITRED-REFUSED", b"overload"]
    assert broker.metric("maitred_principal_in_flight", principal="bea") == 2
    broker.serve("open.x")
    for _ in range(2):
        assert bea.reply().body == [b"x"]
    assert bea.call("open.x", b"again") == [b"again"]
    ann = broker.client(endpoint=at, **keys.curve("ann"))
    for _ in range(5):
        ann.request("open.x", b"x")
    bodies = [ann.reply().body for _ in range(5)]
    assert bodies.count([b"MAITRED-REFUSED", b"overload"]) >= 1 and [b"x"] in bodies
    assert broker.metric("maitred_principal_over_quota_total", principal="ann") >= 1


def test_a_reload_puts_out_who_lost_the_key(locked, keys):
    at = locked.endpoints[CURVE]
    locked.worker("bea", endpoint=at, **keys.curve("bea"))
    stays = locked.worker("echo", endpoint=at, **keys.curve("ann"))
    locked.wait_workers("bea", 1)
    config = (locked.directory / "maitred.toml").read_text()
    config = config.replace(keys.public("bea"), keys.make("new"))
    (locked.directory / "maitred.toml").write_text(config)
    assert locked.request("POST", "/v1/reload").status == 200
    locked.wait_workers("bea", 0)
    locked.worker("bea", endpoint=at, **keys.curve("new"))
    locked.wait_workers("bea", 1)
    client = locked.client()
    client.request("echo", b"x")
    stays.serve_one()
    assert client.reply().body == [b"x"]


def test_a_frozen_client_and_worker_are_noticed_through_curve(start, keys):
    broker = start(locked_config(keys, more=FAST), mdp_option=False)
    at = ["--mdp", broker.endpoints[CURVE], "--server-key", keys.public("server")]
    at += ["--key", keys.path("ann")]
    environment = quiet_environment()
    children = [
        Child([binary(), "work", "slow", *at, "--", "sleep", "60"], env=environment),
        Child([binary(), "call", "slow", "x", "--timeout", "60s", *at], env=environment),
    ]
    try:
        broker.wait_workers("slow", 1)
        broker.wait_service("slow", leased=1)
        children[1].signal(signal.SIGSTOP)
        broker.wait_metric("maitred_withdrawals_total", 1, timeout=10.0)
        children[0].signal(signal.SIGSTOP)
        broker.wait_workers("slow", 0, timeout=10.0)
    finally:
        for child in children:
            child.signal(signal.SIGCONT)
            child.kill()


def test_paranoid_pirates_prove_who_they_are(start, keys):
    queue = """
[[paranoid_pirate]]
frontend = "tcp://127.0.0.1:0"
backend = "tcp://127.0.0.1:0"
service = "echo"
mechanism = "curve"
"""
    broker = start(locked_config(keys) + queue, mdp_option=False)
    worker = broker.own(mdp.Peer(broker.context, broker.back, **keys.curve("ann")))
    worker.send(b"\x01")
    broker.wait_workers("echo", 1)
    client = broker.own(mdp.Peer(broker.context, broker.front, zmq.REQ, **keys.curve("ann")))
    client.send(b"hello")
    while (request := worker.recv()) == [b"\x02"]:
        pass
    worker.send(*request)
    assert client.recv() == [b"hello"]
    stranger = Monitored(broker, broker.back, **keys.curve("eve"))
    assert stranger.outcome() == (zmq.EVENT_HANDSHAKE_FAILED_AUTH, 400)


# The command line.


def test_keygen_guards_what_it_makes(tmp_path):
    path = tmp_path / "k"
    made = run("keygen", path)
    assert made.returncode == 0 and made.stdout.strip() == (tmp_path / "k.pub").read_text().strip()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.read_text()
    assert path.read_text().strip() not in made.stdout + made.stderr
    again = run("keygen", path)
    assert again.returncode == 1 and "is there already" in again.stderr
    assert path.read_text() == before
    public, secret = made.stdout.strip().encode(), before.strip().encode()
    assert zmq.curve_public(secret) == public


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda keys, text: text, None),
        (
            lambda keys, text: keys.path("server").chmod(0o644) or text,
            r":\d+: .*server.key holds a secret and its permissions are 644: chmod 600",
        ),
        (
            lambda keys, text: (keys.directory / "ann.word").chmod(0o640) or text,
            r":\d+: .*ann.word holds a secret",
        ),
        (lambda keys, text: text.replace("server_key", "# "), "server_key is missing"),
        (
            lambda keys, text: text.replace(keys.public("bea"), keys.public("ann")),
            "is the key of ann, too",
        ),
        (lambda keys, text: text.replace(keys.public("bea"), "short"), "40 characters of Z85"),
        (lambda keys, text: text.replace('"curve"', '"gssapi"'), "unknown variant `gssapi`"),
        (lambda keys, text: text + '\n[principals.house]\ncall = ["*"]', "is no name"),
        (lambda keys, text: text + "\n[principals.x]\nburst = 3", "means nothing without a rate"),
        (lambda keys, text: text + "\n[principals.x]\nrate = 0", "must be at least 1"),
        (
            lambda keys, text: text.replace("[principals.anonymous]", "[principals.anonymous]\n"
                                            'keys = ["' + keys.public("eve") + '"]'),
            "anonymous is whoever proves nothing",
        ),
    ],
)  # fmt: skip
def test_bad_rules_are_refused_with_a_reason(tmp_path, keys, change, told):
    path = tmp_path / "m.toml"
    path.write_text(change(keys, locked_config(keys)))
    checked = run("check", path)
    if told is None:
        assert checked.returncode == 0, checked.stderr
    else:
        assert checked.returncode == 2 and re.search(told, checked.stderr), checked.stderr


def test_call_and_work_prove_who_they_are(locked, keys):
    curve = ["--mdp", locked.endpoints[CURVE], "--server-key", f"{keys.path('server')}.pub"]
    ann = [*curve, "--key", keys.path("ann")]
    as_plain = ["--mdp", locked.endpoints[PLAIN], "--user", "ann"]
    as_plain += ["--password-file", keys.directory / "ann.word"]
    environment = quiet_environment()
    worker = Child([binary(), "work", "upper", *ann, "--", "tr", "a-z", "A-Z"], env=environment)
    try:
        locked.wait_workers("upper", 1)
        for proof in (ann, as_plain):
            called = run("call", "upper", "hello", *proof)
            assert called.returncode == 0 and called.stdout == "HELLO\n", called.stderr
        eve = run("call", "upper", "x", "--timeout", "1s", *curve, "--key", keys.path("eve"))
        assert eve.returncode == 3 and "the broker does not know us" in eve.stderr
        nobody = run("call", "upper", "x", "--timeout", "1s", "--mdp", locked.endpoints[CURVE])
        assert nobody.returncode == 3 and "the broker speaks CURVE" in nobody.stderr
        half = run("call", "upper", "x", *curve)
        assert half.returncode == 2 and "--key" in half.stderr
    finally:
        worker.terminate()


def test_open_addresses_need_curve_or_a_word_of_the_operator(tmp_path, keys):
    def serve(config):
        path = tmp_path / "m.toml"
        path.write_text(config)
        command = [binary(), "serve", "-c", path, "--stomp", "off", "--http", "off"]
        return Child(command, env=quiet_environment())

    listen = '[[mdp.listen]]\nendpoint = "tcp://0.0.0.0:0"\n'
    security = f'[security]\nserver_key = "{keys.path("server")}"\n'
    cases = [
        (listen, False),
        (listen + 'mechanism = "plain"\n', False),
        (security + listen + 'mechanism = "curve"\n', True),
        (security.replace("]\n", ']\nmechanism = "curve"\n') + listen, True),
        ("insecure = true\n" + listen, True),
    ]
    for config, starts in cases:
        child = serve(config)
        try:
            if starts:
                child.line(lambda line: line == "ready")
            else:
                assert child.wait() == 2
                assert 'mechanism = "curve"' in child.output()
        finally:
            child.terminate()


# Transports.


def ipc_config(path, more=""):
    tcp = '[[mdp.listen]]\nendpoint = "tcp://127.0.0.1:0"\n'
    return f'{tcp}[[mdp.listen]]\nendpoint = "ipc://{path}"\n{more}'


def test_a_socket_in_the_file_system(start, tmp_path):
    path = tmp_path / "m.sock"
    broker = start(ipc_config(path, "mode = 0o620\n"), mdp_option=False)
    assert stat.S_IMODE(path.stat().st_mode) == 0o620
    assert broker.endpoints[1] == f"ipc://{path}"
    worker = broker.worker("echo", endpoint=broker.endpoints[1])
    broker.wait_workers("echo", 1)
    for endpoint in broker.endpoints:
        client = broker.client(endpoint=endpoint)
        client.request("echo", b"x" * 200_000)
        worker.serve_one()
        assert client.reply().body == [b"x" * 200_000]
    broker.check_serving()
    # A second broker does not take it away from the first.
    broker.directory.joinpath("other.toml").write_text(ipc_config(path))
    second = run("serve", "-c", broker.directory / "other.toml", "--stomp", "off", "--http", "off")
    assert second.returncode == 1 and "another process listens there" in second.stderr
    called = run("call", "mmi.service", "echo", "--mdp", broker.endpoints[1])
    assert called.stdout == "200\n", called.stderr
    broker.may_be_gone = True
    broker.child.terminate()
    assert not path.exists()


def test_what_a_killed_broker_left_behind_is_no_obstacle(start, tmp_path):
    path = tmp_path / "m.sock"
    broker = start(ipc_config(path), mdp_option=False)
    broker.may_be_gone = True
    broker.kill()
    assert path.exists()
    again = start(ipc_config(path), mdp_option=False)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    client = again.client(endpoint=again.endpoints[1])
    assert client.call("mmi.service", b"x") == [b"404"]
    again.may_be_gone = True
    again.child.terminate()
    path.write_text("precious")
    refused = run("serve", "-c", again.directory / "maitred.toml", "--stomp", "off", "--http", "off")
    assert refused.returncode == 1 and "no socket" in refused.stderr
    assert path.read_text() == "precious"


def test_ipv6_and_several_listeners(start):
    listen = "".join(
        f'[[mdp.listen]]\nendpoint = "{endpoint}"\n'
        for endpoint in ("tcp://127.0.0.1:0", "tcp://[::1]:0", "tcp://localhost:0")
    )
    broker = start(listen, mdp_option=False)
    assert len(set(broker.endpoints)) == 3 and "[::1]" in broker.endpoints[1]
    broker.serve("echo")
    for endpoint in broker.endpoints:
        client = broker.client(endpoint=endpoint, ipv6=True)
        assert client.call("echo", b"x") == [b"x"]


def test_wildcards_and_ports_of_the_systems_choice(start):
    listen = "".join(
        f'[[mdp.listen]]\nendpoint = "{endpoint}"\n' for endpoint in ("tcp://*:0", "tcp://[::]:0")
    )
    broker = start("insecure = true\n" + listen, mdp_option=False)
    four, six = broker.endpoints
    assert four.startswith("tcp://0.0.0.0:") and six.startswith("tcp://[::]:")
    broker.own(mdp.ServiceThread(broker.context, four.replace("0.0.0.0", "127.0.0.1"), "echo"))
    client = broker.client(endpoint=six.replace("[::]", "[::1]"), ipv6=True)
    assert client.call("echo", b"x") == [b"x"]


def test_a_paranoid_pirate_queue_in_the_file_system(start, tmp_path):
    front, back = tmp_path / "front.sock", tmp_path / "back.sock"
    queue = f"""
[[paranoid_pirate]]
frontend = "ipc://{front}"
backend = "ipc://{back}"
service = "echo"
mode = 0o640
"""
    broker = start(queue)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (front, back)] == [0o640, 0o640]
    assert broker.queues == [(f"ipc://{front}", f"ipc://{back}")]
    worker = broker.own(ppp.Worker(broker.context, broker.back)).ready()
    client = broker.own(ppp.Client(broker.context, broker.front))
    client.request(b"x" * 100_000)
    worker.serve_one()
    assert client.reply() == [b"x" * 100_000]
