"""Processes that meet at named places over HTTP, with each other and with those that speak MDP."""

import concurrent.futures
import contextlib
import json
import socket
import subprocess
from urllib.parse import quote, urlencode

import pytest

from broker import binary, quiet_environment
from process import wait_until

PLACES = """
[match.db]
ask = { give_up = "never" }

[regulator.gate]
valve = { kind = "concurrency", max = 1 }
"""


def say(broker, kind, name, word, body=b"", *, headers=None, **options):
    query = f"?{urlencode(options)}" if options else ""
    path = f"/v1/{kind}/{quote(name, safe='')}/{word}{query}"
    return broker.request("POST", path, body, headers, 20.0)


def declare(broker, kind, name, rules, headers=None):
    body = rules if isinstance(rules, bytes) else json.dumps(rules).encode()
    return broker.request("PUT", f"/v1/{kind}/{name}", body, headers)


def remove(broker, kind, name, headers=None):
    return broker.request("DELETE", f"/v1/{kind}/{name}", None, headers)


def picture(broker, kind, name):
    return broker.get(f"/v1/{kind}/{name}").json()


def waiting(broker, kind, name):
    one = picture(broker, kind, name)
    if kind == "match":
        return [one["ask"]["waiting"], one["ask_r"]["waiting"]]
    return [one["waiting"], one["running"]]


def wait_waiting(broker, kind, name, expected):
    wait_until(lambda: waiting(broker, kind, name) == expected, f"{name} has {expected}")


def reason(answer):
    return answer.status, answer.json()["reason"]


@contextlib.contextmanager
def calls():
    """Long polls, each in a thread of its own."""
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        yield lambda *args, **keywords: pool.submit(say, *args, **keywords)


@contextlib.contextmanager
def raw_call(broker, path):
    """A request on a socket whose end is in the test's hands."""
    host, port = broker.http_address.rsplit(":", 1)
    with socket.create_connection((host, int(port)), timeout=5.0) as peer:
        head = f"POST {path} HTTP/1.1\r\nHost: {broker.http_address}\r\nContent-Length: 4\r\n\r\n"
        peer.sendall(head.encode() + b"dead")
        yield peer


def test_two_meet_and_get_each_others_value(start):
    broker = start(PLACES)
    with calls() as call:
        one = call(broker, "match", "db", "ask", b"one\x00\xff")
        wait_waiting(broker, "match", "db", [1, 0])
        other = say(broker, "match", "db", "ask_r", b"")
        one = one.result()
    assert (one.status, one.body, other.status, other.body) == (200, b"", 200, b"one\x00\xff")
    relative, sojourn = (int(one.headers[f"maitred-{what}-us"]) for what in ("relative", "sojourn"))
    assert relative == sojourn > 0
    assert int(other.headers["maitred-relative-us"]) == -relative
    assert int(other.headers["maitred-sojourn-us"]) == 0
    assert other.headers["content-type"] == "application/octet-stream"


def test_http_meets_mdp(start):
    broker = start(PLACES)
    client = broker.client()
    client.request("maitred.match", b"ask_r", b"db", b"from mdp")
    wait_waiting(broker, "match", "db", [0, 1])
    assert say(broker, "match", "db", "try_ask", b"from http").body == b"from mdp"
    assert client.reply().body[:2] == [b"go", b"from http"]


def test_an_asker_that_hangs_up_is_never_met(start):
    broker = start(PLACES)
    with calls() as call:
        with raw_call(broker, "/v1/match/db/ask"):
            wait_waiting(broker, "match", "db", [1, 0])
            alive = call(broker, "match", "db", "ask", b"alive")
            wait_waiting(broker, "match", "db", [2, 0])
        wait_waiting(broker, "match", "db", [1, 0])
        assert say(broker, "match", "db", "ask_r", b"x").body == b"alive"
        assert alive.result().body == b"x"
    assert reason(say(broker, "match", "db", "try_ask_r", b"x")) == (409, "retry")
    one = picture(broker, "match", "db")
    assert (one["matched"], one["withdrawn"], one["retries"]) == (1, 1, 1)


def test_who_hangs_up_while_it_waits_is_let_run_no_more(start):
    broker = start(PLACES)
    lock = say(broker, "regulators", "gate", "acquire").json()["lock"]
    with raw_call(broker, "/v1/regulators/gate/acquire"):
        wait_waiting(broker, "regulators", "gate", [1, 1])
    wait_waiting(broker, "regulators", "gate", [0, 1])
    assert say(broker, "regulators", "gate", "done", lock=lock).status == 204
    assert waiting(broker, "regulators", "gate") == [0, 0]


def test_a_lock_from_acquire_to_done(start):
    broker = start(PLACES)
    answer = say(broker, "regulators", "gate", "acquire").json()
    lock = answer["lock"]
    assert answer["relative_us"] <= 0 and answer["sojourn_us"] == 0
    assert reason(say(broker, "regulators", "gate", "try_acquire")) == (409, "retry")
    with calls() as call:
        following = call(broker, "regulators", "gate", "acquire")
        wait_waiting(broker, "regulators", "gate", [1, 1])
        again = say(broker, "regulators", "gate", "continue", lock=lock, lease="1h")
        assert (again.status, again.json()["lock"]) == (200, lock)
        assert say(broker, "regulators", "gate", "update", wait="5ms").status == 204
        done = say(broker, "regulators", "gate", "done", lock=lock, outcome="failed")
        assert (done.status, done.body) == (204, b"")
        other = following.result().json()
    assert other["lock"] != lock and other["relative_us"] == other["sojourn_us"] > 0
    for word in ("continue", "done"):
        assert reason(say(broker, "regulators", "gate", word, lock=lock)) == (404, "lock")
    # Whoever guesses does not hold it.
    guess = other["lock"][:-1] + ("0" if other["lock"][-1] != "0" else "1")
    assert reason(say(broker, "regulators", "gate", "done", lock=guess)) == (404, "lock")
    assert waiting(broker, "regulators", "gate") == [0, 1]


def test_a_lock_that_is_not_continued_goes_to_the_next(start):
    broker = start(PLACES)
    lock = say(broker, "regulators", "gate", "try_acquire", lease="300ms").json()["lock"]
    answer = say(broker, "regulators", "gate", "acquire", lease="50ms").json()
    assert answer["sojourn_us"] >= 100_000
    assert reason(say(broker, "regulators", "gate", "continue", lock=lock)) == (404, "lock")
    client = broker.client()
    word, *_ = client.call("maitred.regulator", b"acquire", b"gate")
    assert word == b"go"


def test_a_smaller_valve_stops_who_asks(start):
    broker = start(PLACES)
    assert declare(broker, "regulators", "gate", {"valve": {"kind": "concurrency", "max": 2}}).status == 204
    locks = [say(broker, "regulators", "gate", "acquire").json()["lock"] for _ in range(2)]
    assert declare(broker, "regulators", "gate", {"valve": {"kind": "concurrency", "max": 1}}).status == 204
    assert reason(say(broker, "regulators", "gate", "continue", lock=locks[0])) == (409, "stop")
    assert reason(say(broker, "regulators", "gate", "continue", lock=locks[0])) == (404, "lock")
    assert say(broker, "regulators", "gate", "continue", lock=locks[1]).status == 200


def test_a_label_withdraws_and_a_timeout_gives_up(start):
    broker = start(PLACES)
    with calls() as call:
        both = [call(broker, "match", "db", "ask", b"x", label="a/b") for _ in range(2)]
        wait_waiting(broker, "match", "db", [2, 0])
        # A label given over a connection is another one.
        assert broker.mmi("maitred.match", b"cancel", b"db", b"a/b") == [b"number", b"0"]
        assert say(broker, "match", "db", "cancel", label="a/b").json() == {"cancelled": 2}
        assert [reason(one.result()) for one in both] == [(409, "cancelled")] * 2
    assert say(broker, "match", "db", "cancel", label="a/b").json() == {"cancelled": 0}
    late = say(broker, "match", "db", "ask", b"x", timeout="20ms")
    assert reason(late) == (503, "expired") and late.headers["retry-after"] == "1"
    assert waiting(broker, "match", "db") == [0, 0]


@pytest.mark.parametrize(
    "path, expected",
    [
        ("match/nowhere/ask", (404, "not_found", "there is no place")),
        ("regulators/db/acquire", (404, "not_found", "there is no place")),
        ("match/db/acquire", (404, "not_found", 'there is no "acquire" here: expected ask')),
        ("regulators/gate/ask", (404, "not_found", 'there is no "ask" here: expected acquire')),
        ("match/db/ask?timeout=soon", (400, "bad_request", '"soon" is not a duration')),
        ("match/db/ask?lease=1s", (400, "bad_request", "ask takes no lease")),
        ("match/db/try_ask?timeout=1s", (400, "bad_request", "try_ask takes no timeout")),
        ("match/db/ask?labe=x", (400, "bad_request", "unknown field `labe`")),
        ("match/db/ask?label=", (400, "bad_request", "a label has from 1 to 255 octets")),
        (f"match/db/ask?label={'x' * 256}", (400, "bad_request", "a label has from 1 to 255")),
        ("match/db/ask?timeout=9000h", (400, "bad_request", "expected whole microseconds")),
        ("match/db/cancel", (400, "bad_request", "expected label=")),
        ("regulators/gate/acquire?lease=never", (400, "bad_request", "a lease lasts from 1us to 24h")),
        ("regulators/gate/acquire?lease=0s", (400, "bad_request", "a lease lasts from 1us to 24h")),
        ("regulators/gate/acquire?lease=25h", (400, "bad_request", "a lease lasts from 1us to 24h")),
        ("regulators/gate/done", (400, "bad_request", "expected lock=")),
        ("regulators/gate/done?lock=mine", (404, "lock", "there is no such lock here")),
        ("regulators/gate/done?lock=1-1&outcome=fine", (400, "bad_request", "outcome is ok or")),
        ("regulators/gate/continue?lock=1-1", (404, "lock", "there is no such lock here")),
        ("regulators/gate/update", (400, "bad_request", "expected wait=")),
    ],
)
def test_what_makes_no_sense_is_refused_with_advice(start, path, expected):
    broker = start(PLACES)
    answer = broker.request("POST", f"/v1/{path}", b"x")
    got = answer.json()
    assert (answer.status, got["reason"]) == expected[:2], got
    assert expected[2] in got["message"], got


def test_places_are_declared_changed_and_removed_while_others_are_there(start):
    broker = start(PLACES)
    assert declare(broker, "match", "new", b"").status == 204
    assert picture(broker, "match", "new")["live"] and not picture(broker, "match", "db")["live"]
    with calls() as call:
        one = call(broker, "match", "new", "ask", b"x")
        wait_waiting(broker, "match", "new", [1, 0])
        assert declare(broker, "match", "new", {"ask": {"queue_max": 1}}).status == 204
        assert reason(say(broker, "match", "new", "ask", b"y")) == (503, "queue_full")
        assert remove(broker, "match", "new").status == 204
        assert reason(one.result()) == (503, "draining")
    assert reason(remove(broker, "match", "new")) == (404, "not_found")
    assert broker.get("/v1/match/new").status == 404

    def told():
        lines = [line for line in broker.child.stderr if 'name="new"' in line]
        return [line.split("place ")[1].split()[0] for line in lines]

    changes = ["started", "changed", "stopped"]
    wait_until(lambda: told() == changes, f"the log tells {changes}")


@pytest.mark.parametrize(
    "kind, rules, expected",
    [
        ("match", b"{", "rules are JSON, and these: EOF"),
        ("match", {"asks": {}}, "unknown field `asks`"),
        ("match", {"ask": {"aim": "5"}}, '"5" is not a duration'),
        ("match", {"ask": {"discipline": "codel"}}, 'match.new.ask.discipline = "codel" needs'),
        ("regulators", {}, "missing field `valve`"),
        ("regulators", {"valve": {"kind": "off"}}, "regulator.new.valve must not be off"),
        ("match", b" " * 70_000, "rules have at most 65536 bytes"),
    ],
)
def test_bad_rules_are_refused_and_change_nothing(start, kind, rules, expected):
    broker = start(PLACES)
    answer = declare(broker, kind, "new", rules)
    assert reason(answer) == (400, "bad_request")
    assert expected in answer.json()["message"], answer.json()
    assert broker.get(f"/v1/{kind}/new").status == 404


def test_there_are_not_more_places_than_there_may_be(start):
    broker = start(PLACES + "\n[limits]\nplaces = 3\n")
    assert declare(broker, "match", "three", {}).status == 204
    assert reason(declare(broker, "match", "four", {})) == (503, "queue_full")
    assert declare(broker, "match", "three", {"ask": {"queue_max": 1}}).status == 204
    assert remove(broker, "match", "db").status == 204
    assert declare(broker, "match", "four", {}).status == 204
    long = declare(broker, "match", "n" * 256, {})
    assert reason(long) == (400, "bad_request") and "1 to 255" in long.json()["message"]


def test_mdp_declares_lists_and_removes_too(start):
    broker = start(PLACES)
    rules = b'{"valve": {"kind": "concurrency", "max": 2}, "give_up": "1s"}'
    assert broker.mmi("maitred.regulator", b"declare", b"door", rules) == [b"done"]
    assert broker.mmi("maitred.regulator", b"list") == [b"names", b"door", b"gate"]
    assert broker.mmi("maitred.regulator", b"list", b"door") == [b"names", b"gate"]
    assert broker.mmi("maitred.match", b"list") == [b"names", b"db"]
    word, why = broker.mmi("maitred.regulator", b"declare", b"door", b"{}")
    assert (word, why) == (b"bad_request", b"rules are JSON, and these: missing field `valve` at line 1 column 2")
    assert broker.mmi("maitred.regulator", b"remove", b"door") == [b"done"]
    assert broker.mmi("maitred.regulator", b"remove", b"door") == [b"not_found", b"name"]


def test_reload_leaves_alone_what_was_declared_and_restores_what_is_configured(start):
    broker = start(PLACES)
    assert declare(broker, "match", "new", {}).status == 204
    assert declare(broker, "match", "db", {"ask": {"queue_max": 0}}).status == 204
    assert remove(broker, "regulators", "gate").status == 204
    assert reason(say(broker, "match", "db", "ask", b"x")) == (503, "queue_full")
    reload = [binary(), "reload", "--http", broker.http_url]
    subprocess.run(reload, check=True, timeout=20, env=quiet_environment(), capture_output=True)
    assert broker.get("/v1/match/new").status == 200
    assert reason(say(broker, "match", "db", "ask", b"x", timeout="1ms")) == (503, "expired")
    assert waiting(broker, "regulators", "gate") == [0, 0]


def test_lists_and_metrics_tell_what_happened(start):
    broker = start(PLACES)
    say(broker, "regulators", "gate", "acquire")
    say(broker, "regulators", "gate", "try_acquire")
    say(broker, "match", "db", "ask", b"x", timeout="1ms")
    listed = broker.get("/v1/match").json()
    assert [one["name"] for one in listed["matches"]] == ["db"] and listed["total"] == 1
    assert listed["matches"][0]["drops_by_reason"] == {"expired": 1}
    (gate,) = broker.get("/v1/regulators?limit=1").json()["regulators"]
    assert (gate["running"], gate["open"], gate["admitted"], gate["retries"]) == (1, False, 1, 1)
    assert broker.get("/v1/regulators?limit=0").json() == {"regulators": [], "total": 1}
    assert broker.metric("maitred_match_came_total", match="db", side="ask") == 1
    assert broker.metric("maitred_match_drops_total", match="db", reason="expired") == 1
    assert broker.metric("maitred_match_waiting", match="db") == 0
    assert broker.metric("maitred_regulator_running", regulator="gate") == 1
    assert broker.metric("maitred_regulator_open", regulator="gate") == 0
    assert broker.metric("maitred_regulator_admitted_total", regulator="gate") == 1
    assert broker.metric("maitred_places", kind="match") == 1
    table = subprocess.run(
        [binary(), "places", "--http", broker.http_url],
        check=True, timeout=20, env=quiet_environment(), capture_output=True, text=True,
    ).stdout.split("\n")
    assert table[0].split()[:2] == ["MATCH", "ASK"] and table[1].split()[0] == "db"
    assert table[4].split() == ["gate", "0", "1", "-", "1", "1", "0", "0", "-"], table
    as_json = subprocess.run(
        [binary(), "places", "--json", "--http", broker.http_url],
        check=True, timeout=20, env=quiet_environment(), capture_output=True, text=True,
    ).stdout
    assert json.loads(as_json)["match"] == broker.get("/v1/match").json()


def test_a_drain_sends_home_who_waits(start):
    broker = start(PLACES)
    broker.may_be_gone = True
    with calls() as call:
        one = call(broker, "match", "db", "ask", b"x")
        wait_waiting(broker, "match", "db", [1, 0])
        assert broker.request("POST", "/v1/drain").status == 202
        assert reason(one.result()) == (503, "draining")


RIGHTS = """
[principals.shop]
token_file = "shop"
call = ["maitred.match.shop*", "maitred.regulator.gate"]
in_flight = 1

[principals.admin]
token_file = "admin"
call = ["*"]
administer = true
"""


def test_rights_and_quotas_are_those_of_the_token(start, tmp_path):
    for name in ("shop", "admin"):
        (tmp_path / name).write_text(f"{name}-secret-token\n")
        (tmp_path / name).chmod(0o600)
    rights = RIGHTS.replace('"shop"', f'"{tmp_path}/shop"').replace('"admin"', f'"{tmp_path}/admin"')
    broker = start(PLACES + "[match.shop1]\n" + rights)
    shop, admin = ({"Authorization": f"Bearer {name}-secret-token"} for name in ("shop", "admin"))
    say_as = lambda who, *rest, **options: say(broker, *rest, headers=who, **options)
    assert say(broker, "match", "db", "ask", b"x").status == 401
    assert reason(say_as(shop, "match", "db", "try_ask", b"x")) == (403, "denied")
    assert reason(say_as(shop, "match", "shop1", "try_ask", b"x")) == (409, "retry")
    assert reason(declare(broker, "match", "shop2", {}, shop)) == (403, "denied")
    assert reason(remove(broker, "match", "shop1", shop)) == (403, "denied")
    assert declare(broker, "match", "shop2", {}, admin).status == 204
    # A lock is its principal's, whoever knows its name.
    lock = say_as(shop, "regulators", "gate", "acquire").json()["lock"]
    assert reason(say_as(admin, "regulators", "gate", "done", lock=lock)) == (404, "lock")
    assert say_as(shop, "regulators", "gate", "done", lock=lock).status == 204
    # Who waits counts against the quota.
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waits = pool.submit(say_as, shop, "match", "shop1", "ask", b"x", label="w")

        def is_waiting():
            answer = broker.request("GET", "/v1/match/shop1", headers=admin)
            return answer.json()["ask"]["waiting"] == 1

        wait_until(is_waiting, "one waits")
        assert reason(say_as(shop, "match", "shop2", "ask", b"y")) == (503, "overload")
        assert say_as(admin, "match", "shop1", "cancel", label="w").json() == {"cancelled": 0}
        assert say_as(shop, "match", "shop1", "cancel", label="w").json() == {"cancelled": 1}
        assert reason(waits.result()) == (409, "cancelled")


def test_foreign_pages_may_not_meet(start):
    broker = start(PLACES)
    for method, path in [("POST", "/v1/match/db/try_ask"), ("PUT", "/v1/match/db"), ("DELETE", "/v1/match/db")]:
        answer = broker.request(method, path, b"", {"Origin": "http://evil.example"})
        assert reason(answer) == (403, "denied")
