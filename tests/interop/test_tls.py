"""Listeners at tls://: our own clients and hand-made peers, with good and bad certificates."""

import os
import re
import signal
import socket
import ssl
import threading
import time

import pytest

from broker import FAST, binary, quiet_environment
from curve import Keys
from process import Child, wait_until
from rawpeer import RawPeer, greeting, message
from test_security import run
from tls import Authority, TlsPeer, client_hello, open_socket, serial_of, serial_of_der

PASSWORD = "tea for two"
REQUEST = (b"", b"MDPC01", b"echo")


@pytest.fixture
def authority(tmp_path):
    return Authority(tmp_path / "tls")


def tls_config(certificate, *, more="", listen='endpoint = "tls://127.0.0.1:0"'):
    """The second endpoint is at tls://, the first one open."""
    chain, secret = certificate
    return f"""
{more}
[security]
tls_cert = "{chain}"
tls_key = "{secret}"
[[mdp.listen]]
endpoint = "tcp://127.0.0.1:0"
[[mdp.listen]]
{listen}
"""


@pytest.fixture
def house(start, authority):
    return start(tls_config(authority.issue()), mdp_option=False)


def open_tls(broker, authority, **keywords):
    return broker.own(TlsPeer(broker.endpoints[1], authority.context(), **keywords))


def try_tls(broker, authority):
    try:
        return open_tls(broker, authority)
    except OSError:
        return None


@pytest.mark.parametrize("kind", ["ec", "rsa"])
def test_whoever_speaks_tls_and_whoever_does_not_find_each_other(start, authority, kind):
    house = start(tls_config(authority.issue(kind=kind)), mdp_option=False)
    worker = open_tls(house, authority)
    worker.send(b"", b"MDPW01", b"\x01", b"echo")
    house.wait_workers("echo", 1)
    for client in (open_tls(house, authority), house.own(RawPeer(house.endpoint))):
        for size in (0, 5, 300, 70_000, 3_000_000):
            body = os.urandom(size)
            client.send(*REQUEST, body)
            _, _, command, address, _, got = worker.recv(timeout=20.0)
            assert (command, got) == (b"\x02", body)
            worker.send(b"", b"MDPW01", b"\x03", address, b"", got, b"!")
            assert client.recv(timeout=20.0) == [*REQUEST, body, b"!"]


def test_many_at_once_and_in_one_write(house, authority):
    """Records that hold many messages, and messages cut into many records."""
    house.serve("echo")
    client = open_tls(house, authority)
    bodies = [os.urandom(n * 37 % 50_000) for n in range(200)]
    client.write(b"".join(message(*REQUEST, body) for body in bodies))
    assert [client.recv(timeout=20.0)[-1] for _ in bodies] == bodies
    for octet in message(*REQUEST, b"bytewise"):
        client.write(bytes([octet]))
    assert client.recv()[-1] == b"bytewise"


def test_a_reader_that_is_slow_gets_all_of_it(house, authority):
    """What the socket does not take at once stays in order behind TLS."""
    house.serve("echo")
    client = open_tls(house, authority)
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
    bodies = [os.urandom(400_000) for _ in range(8)]
    for body in bodies:
        client.send(*REQUEST, body)
    time.sleep(0.5)
    assert [client.recv(timeout=20.0)[-1] for _ in bodies] == bodies


def test_call_and_work_check_the_broker(house, authority, tmp_path):
    at = house.endpoints[1]
    stranger = Authority(tmp_path / "other", "stranger")
    trusting = ["--tls-ca", authority.path]
    command = [binary(), "work", "upper", "--mdp", at, *trusting, "--", "tr", "a-z", "A-Z"]
    worker = Child(command, env=quiet_environment())
    try:
        house.wait_workers("upper", 1)
        called = run("call", "upper", "hello", "--mdp", at, *trusting)
        assert called.returncode == 0 and called.stdout == "HELLO\n", called.stderr
        by_name = at.replace("127.0.0.1", "localhost")
        assert run("call", "upper", "x", "--mdp", by_name, *trusting).stdout == "X\n"
        large = run("call", "upper", "x" * 100_000, "--mdp", at, *trusting)
        assert large.stdout == "X" * 100_000 + "\n", large.stderr
        wrong = run("call", "upper", "x", "--mdp", at, "--timeout", "4s", "--tls-ca", stranger.path)
        assert wrong.returncode == 3 and "not signed by an authority" in wrong.stderr
        nobody = run("call", "upper", "x", "--mdp", at)
        assert nobody.returncode == 1 and "tls_ca" in nobody.stderr
        missing = run("call", "upper", "x", "--mdp", at, "--tls-ca", tmp_path / "none")
        assert missing.returncode == 2 and "cannot read" in missing.stderr
        no_tls = run("call", "upper", "x", "--timeout", "4s", *trusting, "--mdp",
                     house.endpoint.replace("tcp:", "tls:"))  # fmt: skip
        assert no_tls.returncode == 3 and "does not speak TLS" in no_tls.stderr, no_tls.stderr
    finally:
        worker.terminate()


@pytest.mark.parametrize(
    ("how", "told"),
    [({"days": -1}, "expired"), ({"hosts": ["elsewhere.example"]}, "not valid for name")],
)
def test_certificates_that_are_none_for_us(start, authority, how, told):
    house = start(tls_config(authority.issue(**how)), mdp_option=False)
    at = house.endpoints[1]
    called = run("call", "mmi.service", "x", "--timeout", "4s", "--mdp", at, "--tls-ca", authority.path)
    assert called.returncode == 3 and told in called.stderr, called.stderr
    with pytest.raises(ssl.SSLCertVerificationError):
        open_tls(house, authority)
    wait_until(lambda: house.metric("maitred_failed_handshakes_total") >= 2, "the alerts")
    house.check_serving()


def test_tls_and_no_tls_do_not_mix(house, authority):
    plain = house.own(RawPeer(house.endpoints[1], handshake=False))
    plain.write(greeting())
    plain.wait_eof()
    house.wait_metric("maitred_failed_handshakes_total", 1)
    wait_until(
        lambda: any("it speaks ZMTP without TLS" in line for line in house.child.stderr), "a line"
    )
    with pytest.raises((ssl.SSLError, ConnectionError)):
        house.own(TlsPeer(house.endpoint, authority.context()))
    house.wait_metric("maitred_failed_handshakes_total", 2)
    house.check_serving()


@pytest.mark.parametrize(
    "octets",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\xff\xff" + bytes(100),  # a record that is too long
        b"\x16\x03\x01\x10\x00\x01\x00\xff\xff" + (bytes(4_092) + b"\x16\x03\x01\x10\x00") * 4,
        b"\x16\x03\x01\x00\x00" * 17,  # records without content
        b"\x16\x03\x01\x00\x05" + bytes(5),
        b"\x17\x03\x03\x00\x20" + bytes(32),  # data before any handshake
        b"\x15\x03\x03\x00\x02\x02\x28",  # an alert
        b"\x15\x03\x03\x00\x02\x01\x00" * 6,  # warnings
    ],
)
def test_nonsense_is_hung_up_on(house, octets):
    peer = house.own(RawPeer(house.endpoints[1], handshake=False))
    peer.write(octets)
    peer.wait_eof()
    house.wait_metric("maitred_failed_handshakes_total", 1)
    house.check_serving()


def test_old_versions_are_refused(house, authority):
    context = authority.context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        house.own(TlsPeer(house.endpoints[1], context))
    house.wait_metric("maitred_failed_handshakes_total", 1)


def test_a_flipped_bit_ends_the_connection(house, authority):
    """In the handshake and behind it."""
    hello = bytearray(client_hello(authority.context()))
    hello[3] ^= 0x40
    peer = house.own(RawPeer(house.endpoints[1], handshake=False))
    peer.write(bytes(hello))
    peer.wait_eof()
    client = open_tls(house, authority)
    raw = socket.socket(fileno=os.dup(client.socket.fileno()))
    raw.sendall(b"\x17\x03\x03\x00\x40" + bytes(64))
    raw.close()
    client.wait_eof()
    house.check_serving()


def test_nothing_is_taken_in_after_a_goodbye(house, authority):
    house.serve("echo")
    client = open_tls(house, authority)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    bare = open_socket(house.endpoints[1])
    session = authority.context().wrap_bio(incoming, outgoing, server_hostname="127.0.0.1")
    while True:
        try:
            session.do_handshake()
            break
        except ssl.SSLWantReadError:
            bare.sendall(outgoing.read())
            incoming.write(bare.recv(65_536))
    session.write(greeting())
    try:
        session.unwrap()
    except ssl.SSLWantReadError:
        pass
    bare.sendall(outgoing.read() + b"\x17\x03\x03\x00\x40" + bytes(64) * 100)
    bare.settimeout(5.0)
    try:
        while bare.recv(65_536):
            pass
    except ConnectionError:
        pass
    bare.close()
    # Others are served on.
    client.send(*REQUEST, b"x")
    assert client.recv()[-1] == b"x"


def test_slow_and_interrupted_handshakes(start, authority):
    more = '[limits]\nhandshake = "500ms"\n'
    house = start(tls_config(authority.issue(), more=more), mdp_option=False)
    hello = client_hello(authority.context())
    silent = [house.own(RawPeer(house.endpoints[1], handshake=False)) for _ in range(5)]
    for place, peer in enumerate(silent):
        # Nothing, half a header, half a record, all of it and no answer to the broker's.
        peer.write(hello[: [0, 3, 5, len(hello) // 2, len(hello)][place]])
    for peer in silent:
        peer.wait_eof()
    # Octet by octet it comes through, if it is quick enough.
    dripping = open_socket(house.endpoints[1])
    for octet in hello:
        dripping.sendall(bytes([octet]))
    assert dripping.recv(1) == b"\x16"
    # Whoever leaves while its step is computed is gone.
    for _ in range(50):
        one = open_socket(house.endpoints[1])
        one.sendall(hello)
        one.close()
    dripping.close()
    wait_until(lambda: house.metric("maitred_connections") <= 1, "all to be gone", 5.0)
    house.check_serving()
    open_tls(house, authority)


def test_a_flood_of_hellos_starves_nobody(start, authority):
    more = "[limits]\nhandshakes = 64\n"
    house = start(tls_config(authority.issue(), more=more), mdp_option=False)
    house.serve("echo")
    client = open_tls(house, authority)
    hello = client_hello(authority.context())
    over = threading.Event()

    def flood():
        while not over.is_set():
            batch = [open_socket(house.endpoints[1]) for _ in range(50)]
            for one in batch:
                one.sendall(hello)
            for one in batch:
                one.close()

    threads = [threading.Thread(target=flood, daemon=True) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for number in range(50):
            client.send(*REQUEST, b"%d" % number)
            assert client.recv()[-1] == b"%d" % number
    finally:
        over.set()
        for thread in threads:
            thread.join(timeout=5.0)
    # Whoever is hung up on while the last of the flood is still waiting tries again.
    late = wait_until(lambda: try_tls(house, authority), "a way in", 10.0)
    late.send(*REQUEST, b"after")
    assert late.recv()[-1] == b"after"


def test_a_reload_shows_the_new_certificate(house, authority):
    before = open_tls(house, authority)
    first = serial_of(authority.directory / "broker.crt")
    assert serial_of_der(before.certificate) == first
    authority.issue()
    assert house.request("POST", "/v1/reload").json() == {"applied": True, "needs_restart": []}
    after = open_tls(house, authority)
    assert serial_of_der(after.certificate) == serial_of(authority.directory / "broker.crt") != first
    # Whoever came in before stays in.
    before.send(b"", b"MDPC01", b"mmi.service", b"x")
    assert before.recv()[-1] == b"404"
    # A key that others may read is refused, and all stays as it was.
    (authority.directory / "broker.key").chmod(0o644)
    refused = house.request("POST", "/v1/reload")
    assert refused.status == 422 and "holds a secret" in refused.json()["message"]
    open_tls(house, authority)


def test_a_password_is_enough_where_nobody_listens_in(start, authority, tmp_path):
    keys = Keys(tmp_path / "keys")
    word = keys.word("ann", PASSWORD)
    who = f'[principals.ann]\npassword_file = "{word}"\ncall = ["*"]\nserve = ["*"]\n'
    who += '[principals.anonymous]\ncall = ["*"]\nserve = ["*"]\n'
    listen = 'endpoint = "tls://127.0.0.1:0"\nmechanism = "plain"'
    house = start(who + tls_config(authority.issue(), listen=listen), mdp_option=False)
    house.serve("echo")
    at = ["--mdp", house.endpoints[1], "--tls-ca", authority.path, "--timeout", "4s"]
    ann = [*at, "--user", "ann", "--password-file", word]
    called = run("call", "echo", "hello", *ann)
    assert called.returncode == 0 and called.stdout == "hello\n", called.stderr
    nobody = run("call", "echo", "hello", *at)
    assert nobody.returncode == 3 and "the broker speaks PLAIN" in nobody.stderr


def test_beyond_loopback_tls_needs_somebody_to_prove_who_they_are(tmp_path, authority):
    certificate = authority.issue()
    cases = [("null", False), ("plain", True)]
    for mechanism, starts in cases:
        listen = f'endpoint = "tls://0.0.0.0:0"\nmechanism = "{mechanism}"'
        path = tmp_path / "m.toml"
        path.write_text(tls_config(certificate, listen=listen))
        child = Child([binary(), "serve", "-c", path, "--stomp", "off", "--http", "off"], env=quiet_environment())
        try:
            if starts:
                child.line(lambda line: line == "ready")
            else:
                assert child.wait() == 2 and "not a loopback address" in child.output()
        finally:
            child.terminate()


def test_paranoid_pirates_speak_tls_too(start, authority):
    queue = """
[[paranoid_pirate]]
frontend = "tls://127.0.0.1:0"
backend = "tls://127.0.0.1:0"
service = "upper"
"""
    house = start(tls_config(authority.issue()) + queue, mdp_option=False)
    front, back = house.queues[0]
    trusting = ["--tls-ca", authority.path]
    command = [binary(), "work", "upper", "--ppp", back, *trusting, "--", "tr", "a-z", "A-Z"]
    worker = Child(command, env=quiet_environment())
    try:
        house.wait_workers("upper", 1)
        called = run("call", "upper", "hello", "--ppp", front, *trusting)
        assert called.returncode == 0 and called.stdout == "HELLO\n", called.stderr
    finally:
        worker.terminate()


def test_a_killed_broker_comes_back_and_a_frozen_worker_is_noticed(start, authority):
    house = start(tls_config(authority.issue(), more=FAST), mdp_option=False)
    at = ["--mdp", house.endpoints[1], "--tls-ca", authority.path]
    worker = Child([binary(), "work", "slow", *at, "--", "sleep", "60"], env=quiet_environment())
    try:
        house.wait_workers("slow", 1)
        worker.signal(signal.SIGSTOP)
        house.wait_workers("slow", 0, timeout=10.0)
        worker.signal(signal.SIGCONT)
        house.wait_workers("slow", 1, timeout=10.0)
    finally:
        worker.signal(signal.SIGCONT)
        worker.kill()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda tls, text: text, None),
        (lambda tls, text: (tls.directory / "broker.key").chmod(0o644) or text, "holds a secret"),
        (lambda tls, text: text.replace("tls_key", "# "), "needs its tls_key"),
        (lambda tls, text: text.replace("tls_cert", "# "), "needs its tls_cert"),
        (
            lambda tls, text: text.replace("tls_cert", "# ").replace("tls_key", "# "),
            "tls_cert and security.tls_key are missing",
        ),
        (lambda tls, text: text.replace("broker.crt", "none.crt"), r"cannot read .*none\.crt"),
        (lambda tls, text: text.replace("broker.crt", "broker.key"), "holds no certificate"),
        (
            lambda tls, text: text.replace("broker.key", f"{tls.issue('other')[1].name}"),
            "is not the key of the first certificate",
        ),
        (
            lambda tls, text: (tls.directory / "broker.key").write_text("tea") and text,
            "holds no key in PEM",
        ),
    ],
)  # fmt: skip
def test_bad_files_are_refused_with_a_reason(tmp_path, authority, change, told):
    path = tmp_path / "m.toml"
    path.write_text(change(authority, tls_config(authority.issue())))
    checked = run("check", path)
    if told is None:
        assert checked.returncode == 0, checked.stderr
    else:
        assert checked.returncode == 2 and re.search(rf"m.toml:\d+: .*{told}", checked.stderr), (
            checked.stderr
        )
