"""The binary under test as a process, and the peers that one test lets loose on it."""

import http.client
import json
import os
import re
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

import zmq

import mdp
from process import Child, wait_until
from rawpeer import Closed, RawPeer

HERE = Path(__file__).resolve().parent
ANY_PORT = "tcp://127.0.0.1:0"

# Beats fast enough to watch liveness at work, slow enough for a machine that is busy elsewhere.
FAST_INTERVAL = 0.2
FAST = '[mdp]\nheartbeat = "200ms"\nliveness = 3\n'


def binary():
    path = os.environ.get("MAITRED_BIN")
    if not path:
        raise AssertionError("MAITRED_BIN must name the maitred binary to test")
    if not os.access(path, os.X_OK):
        raise AssertionError(f"MAITRED_BIN: {path} is not an executable file")
    return Path(path).resolve()


def quiet_environment():
    """The environment without settings that would reach the broker or its command line."""
    return {k: v for k, v in os.environ.items() if not k.startswith("MAITRED_") and k != "RUST_LOG"}


@dataclass(frozen=True)
class Response:
    status: int
    headers: dict
    body: bytes

    def json(self):
        return json.loads(self.body)


class Broker:
    """One `maitred serve` in its own directory on ephemeral ports; it closes what it handed out."""

    def __init__(self, directory, config="", *, mdp_option=True, stomp_option=ANY_PORT):
        self.directory = Path(directory)
        self.config = self.directory / "maitred.toml"
        self.config.write_text(config)
        self.mdp_option = mdp_option
        self.stomp_option = stomp_option
        self.context = zmq.Context()
        self.context.set(zmq.MAX_SOCKETS, 8192)
        self.owned = []
        self.child = None
        # Set by a test that ends the broker itself.
        self.may_be_gone = False

    def start(self, endpoint=ANY_PORT, http_address="127.0.0.1:0"):
        command = [binary(), "serve", "-c", self.config]
        if self.mdp_option:
            command += ["--mdp", endpoint]
        if self.stomp_option:
            command += ["--stomp", self.stomp_option]
        command += ["--http", http_address, "--data", self.directory / "data"]
        self.child = Child(command, env=quiet_environment(), cwd=self.directory)
        self.child.line(lambda line: line == "ready", timeout=15.0)
        self.endpoints = self._listening("mdp", r"t(cp|ls)://(127\.0\.0\.1|\[::1?\]|0\.0\.0\.0):[1-9]\d*|ipc://\S+")
        self.stomp_endpoint = self._stomp()
        (self.http_url,) = self._listening("http", r"http://127\.0\.0\.1:[1-9]\d*")
        self.queues = self._queues()
        return self

    def _stomp(self):
        """Where STOMP is spoken, as printed."""
        found = [line for line in self.child.stdout if line.startswith("listening stomp ")]
        return found[0].split()[-1] if found else None

    @property
    def stomp_address(self):
        """Host and port, as STOMP's clients take them."""
        host, port = self.stomp_endpoint.removeprefix("tcp://").rsplit(":", 1)
        return host, int(port)

    def _queues(self):
        """Front and back end of each Paranoid Pirate queue, as printed."""
        form = r"listening ppp-(?:front|back)end (t(?:cp|ls)://127\.0\.0\.1:[1-9]\d*|ipc://\S+) service (.+)"
        found = [re.fullmatch(form, line) for line in self.child.stdout if " ppp-" in line]
        ends = [match[1] for match in found if match]
        assert len(ends) % 2 == 0, self.child.output()
        return list(zip(ends[::2], ends[1::2]))

    @property
    def front(self):
        return self.queues[0][0]

    @property
    def back(self):
        return self.queues[0][1]

    def _listening(self, what, form):
        head = f"listening {what} "
        found = [line[len(head) :] for line in self.child.stdout if line.startswith(head)]
        assert found and all(re.fullmatch(form, at) for at in found), self.child.output()
        return found

    @property
    def endpoint(self):
        return self.endpoints[0]

    @property
    def http_address(self):
        return urlsplit(self.http_url).netloc

    # The peers of a test.

    def own(self, peer):
        self.owned.append(peer)
        return peer

    def client(self, dialect=mdp.V01, *, endpoint=None, **options):
        return self.own(mdp.Client(self.context, endpoint or self.endpoint, dialect, **options))

    def worker(self, service=None, *options, dialect=mdp.V01, endpoint=None, **socket_options):
        """A worker by hand; with a service its READY is sent."""
        worker = mdp.Worker(self.context, endpoint or self.endpoint, dialect, **socket_options)
        if service is not None:
            worker.ready(service, *options)
        return self.own(worker)

    def idle_worker(self, service, *options, **keywords):
        """As `worker`, and the broker has taken note of it: the order of offers is settled."""
        before = self.workers(service)
        worker = self.worker(service, *options, **keywords)
        self.wait_workers(service, before + 1)
        return worker

    def serve(self, service, handler=lambda body: body, **keywords):
        """An ordinary worker in a thread; an echo unless told otherwise."""
        return self.own(
            mdp.ServiceThread(self.context, self.endpoint, service, handler, **keywords)
        )

    def worker_process(self, service, *arguments):
        """An ordinary worker in a process of its own, registered once this returns."""
        before = self.workers(service)
        child = self.own(WorkerProcess(self.endpoint, service, *arguments))
        self.wait_workers(service, before + 1, timeout=10.0)
        return child

    def peer(self, kind=zmq.DEALER, **options):
        return self.own(mdp.Peer(self.context, self.endpoint, kind, **options))

    def raw(self, **keywords):
        return self.own(RawPeer(self.endpoint, **keywords))

    # What the broker says about itself.

    def mmi(self, name, *body, timeout=5.0):
        client = mdp.Client(self.context, self.endpoint, req=True)
        try:
            return client.call(name, *body, timeout=timeout)
        finally:
            client.close()

    def workers(self, service):
        (count,) = self.mmi("mmi.workers", service)
        assert re.fullmatch(rb"\d+", count), count
        return int(count)

    def wait_workers(self, service, count, timeout=5.0):
        wait_until(
            lambda: self.workers(service) == count, f"{count} workers of {service!r}", timeout, 0.02
        )

    def request(self, method, path, body=None, headers=None, timeout=10.0):
        connection = http.client.HTTPConnection(self.http_address, timeout=timeout)
        try:
            connection.request(method, path, body=body, headers=headers or {})
            answer = connection.getresponse()
            head = {name.lower(): value for name, value in answer.getheaders()}
            return Response(answer.status, head, answer.read())
        finally:
            connection.close()

    def get(self, path):
        return self.request("GET", path)

    def post(self, service, body=b"", *, timeout=None, headers=None):
        query = f"?timeout={timeout}" if timeout else ""
        path = f"/v1/services/{quote(service, safe='')}{query}"
        return self.request("POST", path, body, headers)

    def service(self, name):
        """The entry of /v1/services, or None."""
        entries = self.get("/v1/services").json()["services"]
        return next((entry for entry in entries if entry["name"] == name), None)

    def wait_service(self, name, timeout=5.0, **fields):
        """Waits until the service's entry has these values, a missing entry counting as zeros."""

        def reached():
            entry = self.service(name) or {}
            return all(entry.get(field, 0) == value for field, value in fields.items())

        wait_until(reached, f"service {name!r} with {fields}", timeout, 0.02)

    def metric(self, name, **labels):
        """The sum of a metric over all series that carry these labels."""
        total = 0.0
        for line in self.get("/metrics").body.decode().splitlines():
            match = re.match(r"([a-zA-Z_:][\w:]*)(?:\{(.*?)\})? (\S+)", line)
            if not match or match[1] != name:
                continue
            present = dict(re.findall(r'(\w+)="((?:[^"\\]|\\.)*)"', match[2] or ""))
            if all(present.get(label) == value for label, value in labels.items()):
                total += float(match[3])
        return total

    def wait_metric(self, name, value, timeout=5.0, **labels):
        wait_until(
            lambda: self.metric(name, **labels) == value, f"{name}{labels} = {value}", timeout, 0.02
        )

    def rss_kib(self, field="VmRSS"):
        status = Path(f"/proc/{self.child.pid}/status").read_text()
        return int(re.search(rf"{field}:\s+(\d+) kB", status)[1])

    def check_serving(self, timeout=5.0):
        """Whatever happened before: a fresh worker and a fresh client still find each other."""
        assert self.child.running(), self.child.output()
        service = f"still-{time.monotonic_ns()}"
        worker = mdp.Worker(self.context, self.endpoint).ready(service)
        client = mdp.Client(self.context, self.endpoint, req=True)
        try:
            client.request(service, b"are you", b"", b"there")
            worker.serve_one(b"yes", timeout=timeout)
            assert client.reply(timeout) == mdp.Reply(service.encode(), [b"yes"])
        finally:
            worker.close()
            client.close()

    # Its end.

    def kill(self):
        """kill -9."""
        self.child.kill()

    def restart(self):
        """Again, on the ports it had."""
        endpoint, http_address = self.endpoint, self.http_address
        assert not self.child.running()
        return self.start(endpoint, http_address)

    def close(self):
        """Ends the peers and the process, then says what was wrong with either, if anything."""
        failures = []
        for peer in reversed(self.owned):
            try:
                peer.close()
            except Exception as failure:  # the process must end in any case
                failures.append(failure)
        self.context.destroy(linger=0)
        if self.child is not None:
            gone = not self.child.running()
            status = self.child.terminate()
            output = self.child.output()
            if gone and not self.may_be_gone:
                failures.append(AssertionError(f"the broker ended with {status}\n{output}"))
            if "panicked at" in output:
                failures.append(AssertionError(f"the broker panicked\n{output}"))
        if failures:
            raise failures[0]


class WorkerProcess(Child):
    def __init__(self, endpoint, service, *arguments):
        script = HERE / "peer_worker.py"
        super().__init__([sys.executable, script, endpoint, service, *arguments])

    def busy(self, timeout=10.0):
        """Waits until it took a request."""
        return self.line(lambda line: line.startswith("request"), timeout)

    def freeze(self):
        self.signal(signal.SIGSTOP)

    def thaw(self):
        self.signal(signal.SIGCONT)

    def close(self):
        self.signal(signal.SIGCONT) if self.running() else None
        self.kill()


__all__ = ["ANY_PORT", "Broker", "Closed", "FAST", "FAST_INTERVAL", "WorkerProcess", "binary"]
