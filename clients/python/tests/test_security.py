"""Brokers that ask who their peers are."""

import pytest
from curve import Keys

from maitred import Client, Curve, Denied, InvalidKey, Plain, Timeout, Unreachable, Worker


@pytest.fixture
def keys(tmp_path):
    return Keys(tmp_path / "keys")


@pytest.fixture
def locked(start, keys):
    """A broker with a CURVE and a PLAIN listener, and two principals."""
    public = {name: keys.make(name) for name in ("server", "shop", "resizer", "stranger")}
    return start(
        f"""
[defaults]
answer_refusals = true
[security]
server_key = "{keys.path("server")}"
[[mdp.listen]]
endpoint = "tcp://127.0.0.1:0"
mechanism = "curve"
[[mdp.listen]]
endpoint = "tcp://127.0.0.1:0"
mechanism = "plain"
[principals.shop]
keys = ["{public["shop"]}"]
password_file = "{keys.word("shop", "mellon mellon")}"
call = ["resize"]
[principals.resizer]
keys = ["{public["resizer"]}"]
password_file = "{keys.word("resizer", "open sesame")}"
serve = ["resize"]
[principals.anonymous]
call = ["mmi.*"]
""",
        mdp_option=False,
    )


@pytest.fixture
def proof(keys):
    def make(mechanism, name, password):
        if mechanism == "plain":
            return Plain(name, password)
        return Curve.load(server=keys.path("server").with_suffix(".key.pub"), key=keys.path(name))

    return make


@pytest.mark.parametrize("mechanism", ["curve", "plain"])
def test_those_who_are_named_come_in(locked, proof, mechanism):
    endpoint = locked.endpoints[mechanism == "plain"]
    worker = Worker(endpoint, security=proof(mechanism, "resizer", "open sesame"))
    worker.add("resize", lambda request: request.body.upper())
    shop = proof(mechanism, "shop", "mellon mellon")
    with worker, Client(endpoint, security=shop) as client:
        worker.connected(10)
        assert client.call("resize", "photo").text == "PHOTO"
        with pytest.raises(Denied):
            client.call("burn", "photo")


@pytest.mark.parametrize("mechanism", ["curve", "plain"])
def test_others_are_told_why_not(locked, proof, mechanism):
    endpoint = locked.endpoints[mechanism == "plain"]
    stranger = proof(mechanism, "stranger", "let me in")
    worker = Worker(endpoint, security=stranger)
    worker.add("resize", lambda request: request.body)
    for security in (stranger, None):
        with Client(endpoint, security=security, timeout=1) as client:
            with pytest.raises(Unreachable, match="let us in|handshake failed|handshake"):
                client.call("resize", "photo")
    with worker, pytest.raises(Unreachable):
        worker.connected(0.5)


def test_who_may_not_serve_is_sent_away(locked, proof):
    endpoint = locked.endpoints[0]
    worker = Worker(endpoint, security=proof("curve", "shop", ""))
    worker.add("resize", lambda request: "stolen")
    shop = proof("curve", "shop", "")
    with worker, Client(endpoint, security=shop) as client:
        with pytest.raises(Timeout):
            client.call("resize", "photo", timeout=0.5)


def test_a_key_that_is_none_is_refused_before():
    good = "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"
    assert Curve(good, good).server == good
    for wrong in ("", good + "x", good[1:], "ö" * 20, "\x7f" * 40, "#" * 40):
        with pytest.raises(InvalidKey, match="the server key is no key"):
            Curve(wrong, good)
        with pytest.raises(InvalidKey, match="the secret key is no key"):
            Curve(good, wrong)
