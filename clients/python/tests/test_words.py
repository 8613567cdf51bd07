"""Tables: what is put on the wire, what is read from it, and what is refused before."""

import pytest

from maitred import (
    Curve,
    EndpointError,
    InvalidKey,
    MaitredError,
    Message,
    Overload,
    Plain,
    Protocol,
    Refused,
    ServiceNameError,
    Timeout,
    TooLarge,
    Unreachable,
)
from maitred._backoff import PIRATE, QUICK, Backoff
from maitred._endpoint import check_endpoint, service_name
from maitred._protocol import (
    Control,
    Delivery,
    ReplyHead,
    disconnect,
    heartbeat,
    read_command,
    read_reply,
    ready,
    reply,
    request,
)
from maitred._wire import WireConfig
from maitred.errors import refused
from maitred.message import as_message

V01, V02, PPP = Protocol.MDP01, Protocol.MDP02, Protocol.PPP
ID = (258).to_bytes(8, "big")


@pytest.mark.parametrize(
    "protocol, call_id, body, expected",
    [
        (V01, None, [b"hi"], [b"", b"MDPC01", b"echo", b"hi"]),
        (V01, 258, [b"a", b"", b"c"], [ID, b"", b"MDPC01", b"echo", b"a", b"", b"c"]),
        (V02, None, [b"hi"], [b"MDPC02", b"\x01", b"echo", b"hi"]),
        (V02, 258, [b"hi"], [ID, b"", b"MDPC02", b"\x01", b"echo", b"hi"]),
        (PPP, None, [b"a", b"b"], [b"", b"a", b"b"]),
        (PPP, 258, [b"hi"], [ID, b"", b"hi"]),
    ],
)
def test_a_client_says(protocol, call_id, body, expected):
    assert request(protocol, call_id, b"echo", body) == expected


@pytest.mark.parametrize(
    "protocol, frames, expected",
    [
        (V01, [b"", b"MDPC01", b"s", b"x"], (None, True, 3)),
        (V01, [ID, b"", b"MDPC01", b"s", b"x"], (258, True, 4)),
        (V01, [b"", b"MDPC01", b"s"], (None, True, 3)),
        (V01, [b"", b"MDPC01"], None),
        (V01, [b"", b"MDPC02", b"\x03", b"s"], None),
        (V01, [b"hello"], None),
        (V01, [], None),
        (V02, [b"MDPC02", b"\x03", b"s", b"x"], (None, True, 3)),
        (V02, [b"", b"MDPC02", b"\x02", b"s", b"x"], (None, False, 4)),
        (V02, [ID, b"", b"MDPC02", b"\x02", b"s", b"x"], (258, False, 5)),
        (V02, [ID, b"MDPC02", b"\x03", b"s", b"x"], (258, True, 4)),
        (V02, [b"odd", b"", b"MDPC02", b"\x03", b"s"], (None, True, 5)),
        (V02, [ID, b"", b"MDPC02", b"\x01", b"s", b"x"], None),
        (V02, [ID, b"", b"MDPC02", b"\x03"], None),
        (V02, [ID, b"", b"MDPC02"], None),
        (V02, [ID, ID, b"", b"MDPC02", b"\x03", b"s"], None),
        (PPP, [b"", b"x"], (None, True, 1)),
        (PPP, [ID, b"", b"", b"x"], (258, True, 2)),
        (PPP, [b"x"], None),
    ],
)
def test_a_client_hears(protocol, frames, expected):
    assert read_reply(protocol, frames) == (expected and ReplyHead(*expected))


@pytest.mark.parametrize(
    "say, v01, v02, ppp",
    [
        (
            lambda p: ready(p, b"echo", 1),
            [b"", b"MDPW01", b"\x01", b"echo"],
            [b"MDPW02", b"\x01", b"echo"],
            [b"\x01"],
        ),
        (
            lambda p: ready(p, b"echo", 8),
            [b"", b"MDPW01", b"\x01", b"echo", b"concurrency=8"],
            [b"MDPW02", b"\x01", b"echo", b"concurrency=8"],
            [b"\x01"],
        ),
        (heartbeat, [b"", b"MDPW01", b"\x04"], [b"MDPW02", b"\x05"], [b"\x02"]),
        (disconnect, [b"", b"MDPW01", b"\x05"], [b"MDPW02", b"\x06"], None),
        (
            lambda p: reply(p, True, (b"c",), (b"hi",)),
            [b"", b"MDPW01", b"\x03", b"c", b"", b"hi"],
            [b"MDPW02", b"\x04", b"c", b"", b"hi"],
            [b"c", b"", b"hi"],
        ),
    ],
)
def test_a_worker_says(say, v01, v02, ppp):
    assert [say(protocol) for protocol in (V01, V02, PPP)] == [v01, v02, ppp]


def test_a_worker_says_a_partial_reply():
    assert reply(V02, False, (b"c",), (b"hi",)) == [b"MDPW02", b"\x03", b"c", b"", b"hi"]


C, X = (b"c",), (b"x",)


@pytest.mark.parametrize(
    "protocol, frames, expected",
    [
        (V01, [b"", b"MDPW01", b"\x02", b"c", b"", b"x"], Delivery(C, X)),
        (V01, [b"", b"MDPW01", b"\x02", b"c", b"x"], Delivery(C, X)),
        (V01, [b"", b"MDPW01", b"\x04"], Control.HEARTBEAT),
        (V01, [b"", b"MDPW01", b"\x05"], Control.DISCONNECT),
        (V01, [b"", b"MDPW01", b"\x06"], None),
        (V01, [b"", b"MDPW02", b"\x05"], None),
        (V02, [b"MDPW02", b"\x02", b"c", b"", b"x"], Delivery(C, X)),
        (V02, [b"", b"MDPW02", b"\x02", b"c", b"", b"", b"x"], Delivery(C, (b"", b"x"))),
        (V02, [b"MDPW02", b"\x02", b"c", b""], Delivery(C, (b"",))),
        (V02, [b"MDPW02", b"\x02"], None),
        (V02, [b"MDPW02", b"\x05"], Control.HEARTBEAT),
        (V02, [b"MDPW02", b"\x06"], Control.DISCONNECT),
        (V02, [b"MDPW02"], None),
        (V02, [b"MDPW02", b"\x02\x02"], None),
        (V02, [b""], None),
        (V02, [], None),
        (PPP, [b"c", b"", b"x"], Delivery(C, X)),
        (PPP, [b"a", b"b", b"", b"", b"x"], Delivery((b"a", b"b"), (b"", b"x"))),
        (PPP, [b"c", b""], Delivery(C, (b"",))),
        (PPP, [b"c", b"x"], None),
        (PPP, [b"\x02"], Control.HEARTBEAT),
        (PPP, [b"HEARTBEAT"], Control.HEARTBEAT),
        (PPP, [b"\x01"], None),
    ],
)
def test_a_worker_hears(protocol, frames, expected):
    assert read_command(protocol, frames) == expected


@pytest.mark.parametrize(
    "text, problem",
    [
        ("tcp://127.0.0.1:5555", None),
        ("tcp://broker.example:1", None),
        ("tcp://[::1]:65535", None),
        ("ipc://x", None),
        ("127.0.0.1:5555", "does not start with tcp:// or ipc://"),
        ("inproc://x", "does not start with tcp:// or ipc://"),
        ("ipc://", "names no file"),
        ("ipc://@x", "names no file"),
        ("tcp://localhost", "has no port"),
        ("tcp://[nonsense]:1", "not an IPv6 address"),
        ("tcp://::1:5555", "needs brackets"),
        ("tcp://*:5555", "no host to connect to"),
        ("tcp://:5555", "no host to connect to"),
        ("tcp://a/b:5555", "not a host name"),
        ("tcp://localhost:0", "not a number from 1 to 65535"),
        ("tcp://localhost:65536", "not a number from 1 to 65535"),
        ("tcp://localhost:x", "not a number from 1 to 65535"),
    ],
)
def test_endpoints_are_read_or_refused_with_a_reason(text, problem):
    if problem is None:
        assert check_endpoint(text) == text
    else:
        with pytest.raises(EndpointError, match=problem):
            check_endpoint(text)


def test_service_names_have_bounds():
    assert service_name("größe") == "größe".encode()
    for name in ("", "x" * 256, "ö" * 128):
        with pytest.raises(ServiceNameError, match="1 to 255 bytes"):
            service_name(name)


@pytest.mark.parametrize(
    "body, frames",
    [
        (b"x", (b"x",)),
        ("ö", ("ö".encode(),)),
        (None, (b"",)),
        ([], (b"",)),
        ([b"a", "b", b""], (b"a", b"b", b"")),
        (bytearray(b"x"), (b"x",)),
        (memoryview(b"x"), (b"x",)),
        (Message((b"a", b"b")), (b"a", b"b")),
    ],
)
def test_what_is_taken_for_a_body(body, frames):
    assert as_message(body).frames == frames


@pytest.mark.parametrize("body", [7, {"a": 1}, [7], object()])
def test_what_is_not(body):
    with pytest.raises(TypeError, match="bytes"):
        as_message(body)


def test_a_message_is_read_in_many_ways():
    message = Message((b'{"a":', b" 1}"))
    assert message.body == bytes(message) == b'{"a": 1}'
    assert (message.text, message.json(), message.size) == ('{"a": 1}', {"a": 1}, 8)
    assert (list(message), len(message)) == ([b'{"a":', b" 1}"], 2)
    assert Message((b"\xff",)).text == "\ufffd"


def test_messages_have_bounds():
    config = WireConfig(message_bytes_max=1024)
    config.check(Message((b"x" * 512,)))
    with pytest.raises(TooLarge, match="513 bytes, the limit is 512"):
        config.check(Message((b"x" * 500, b"y" * 13)))
    config.check(Message((b"",) * 1018))
    with pytest.raises(TooLarge, match="1019 frames, the limit is 1018"):
        config.check(Message((b"",) * 1019))


@pytest.mark.parametrize(
    "pace, ceilings",
    [(QUICK, [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10]), (PIRATE, [1, 2, 4, 8, 16, 32, 32])],
)
def test_waits_double_up_to_a_limit_and_start_over_after_health(pace, ceilings):
    backoff = Backoff(pace)
    for ceiling in ceilings:
        assert backoff.ceiling == pytest.approx(ceiling)
        assert ceiling * pace.least <= backoff.next() <= ceiling
    backoff.connection_lasted(pace.healthy - 0.001)
    assert backoff.ceiling == pace.longest
    backoff.connection_lasted(pace.healthy)
    assert backoff.ceiling == pace.first


def test_refusals_have_a_class_and_a_reason():
    assert type(refused("overload")) is Overload
    assert (refused("overload").reason, Overload().reason) == ("overload", "overload")
    assert str(refused("overload")) == "the service is overloaded (overload)"
    unknown = refused("tea_time")
    assert (type(unknown), unknown.reason, str(unknown)) == (
        Refused,
        "tea_time",
        "refused (tea_time)",
    )


def test_errors_are_also_what_python_calls_them():
    assert issubclass(Unreachable, Timeout) and issubclass(Timeout, TimeoutError)
    assert issubclass(EndpointError, ValueError) and issubclass(Refused, MaitredError)


def test_secrets_have_no_text(tmp_path):
    for name, text in (("b.pub", "B" * 40), ("s.key", "S" * 40)):
        (tmp_path / name).write_text(text + "\n")
    curve = Curve.load(server=tmp_path / "b.pub", key=tmp_path / "s.key")
    assert (curve.server, curve.secret) == ("B" * 40, "S" * 40)
    assert "SSS" not in repr(curve) and "word" not in repr(Plain("me", "word"))
    with pytest.raises(InvalidKey, match="255 bytes"):
        Plain("me", "x" * 256)
