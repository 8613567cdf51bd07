"""Every program under `examples`, each client with the workers of every language."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from broker import quiet_environment
from curve import Keys
from process import Child

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
PPP = """
[[paranoid_pirate]]
frontend = "tcp://127.0.0.1:0"
backend = "tcp://127.0.0.1:0"
service = "upper"
"""


@pytest.fixture(scope="session")
def javascript(tmp_path_factory):
    """The JavaScript examples beside the packages they import: Node looks there and nowhere
    else."""
    node_modules = os.environ.get("MAITRED_EXAMPLES_NODE_MODULES")
    if not node_modules or not (Path(node_modules) / "zeromq").is_dir():
        raise AssertionError("MAITRED_EXAMPLES_NODE_MODULES must name a node_modules with zeromq")
    folder = tmp_path_factory.mktemp("javascript")
    for path in (EXAMPLES / "javascript").iterdir():
        if path.is_file():
            shutil.copy(path, folder)
    (folder / "node_modules").symlink_to(node_modules)
    return folder


@pytest.fixture
def command(javascript):
    """How an example is started."""

    def make(name, *arguments):
        kind = name.rsplit(".", 1)[1]
        start = {
            "py": [sys.executable, "-u", EXAMPLES / "python" / name],
            "mjs": ["node", javascript / name],
            "sh": [EXAMPLES / "curl" / name],
        }[kind]
        return [*start, *arguments]

    return make


@pytest.fixture
def call(command):
    """Runs an example to its end; gives what it prints."""

    def run(name, *arguments, status=0):
        done = subprocess.run(
            command(name, *arguments),
            capture_output=True, text=True, timeout=30, env=quiet_environment(),
        )  # fmt: skip
        assert done.returncode == status, (name, done.stdout, done.stderr)
        return done.stdout if status == 0 else done.stdout + done.stderr

    return run


@pytest.fixture
def serve(command):
    """Starts a worker among the examples; it must end well when it is told to."""

    def start(broker, name, *arguments, service="upper"):
        child = Child(command(name, *arguments), env=quiet_environment())
        child.close = lambda: check_end(child)
        broker.own(child)
        broker.wait_workers(service, 1, timeout=20)
        return child

    def check_end(child):
        status = child.terminate()
        assert status == 0, child.output()

    return start


CLIENTS = ["client.py", "client.mjs"]
HTTP_CLIENTS = ["http_client.py", "http_client.mjs", "call.sh"]


@pytest.mark.parametrize("worker", ["worker.py", "async_worker.py", "worker.mjs"])
def test_majordomo_and_http(broker, serve, call, worker):
    serve(broker, worker, broker.endpoint)
    broker.wait_workers("count", 1, timeout=20)
    for name in CLIENTS:
        assert call(name, broker.endpoint) == "HELLO\n", name
    for name in ("stream.py", "stream.mjs"):
        assert call(name, broker.endpoint) == "1\n2\n3\n", name
    for name in HTTP_CLIENTS:
        assert call(name, broker.http_url) == "HELLO\n", name
    services, workers = map(json.loads, call("services.sh", broker.http_url).splitlines())
    assert {entry["name"] for entry in services["services"]} >= {"upper", "count"}
    assert {entry["service"] for entry in workers["workers"]} == {"upper", "count"}


@pytest.mark.parametrize("name", HTTP_CLIENTS)
def test_a_refusal_over_http_is_shown(start, call, name):
    broker = start("[http]\ntoken = 'a token that nobody sends'\n")
    assert "denied" in call(name, broker.http_url, status=22 if name == "call.sh" else 1)


@pytest.mark.parametrize("worker", ["worker.py", "worker.mjs"])
def test_workers_outlive_the_broker(start, serve, call, worker):
    broker = start()
    broker.may_be_gone = True
    serve(broker, worker, broker.endpoint)
    broker.kill()
    broker.restart()
    broker.wait_workers("upper", 1, timeout=20)
    assert call("client.py", broker.endpoint) == "HELLO\n"


@pytest.mark.parametrize("worker", ["ppp_worker.py", "ppp_worker.mjs"])
def test_paranoid_pirate(start, serve, call, worker):
    broker = start(PPP)
    serve(broker, worker, broker.back)
    for name in ("ppp_client.py", "ppp_client.mjs"):
        assert call(name, broker.front) == "HELLO\n", name
    assert call("call.sh", broker.http_url) == "HELLO\n"


@pytest.mark.parametrize("name", ["curve_client.py", "curve_client.mjs"])
def test_keys(start, serve, call, tmp_path, name):
    keys = Keys(tmp_path / "keys")
    keys.make("broker")
    shop = keys.make("shop")
    broker = start(
        f"""
[security]
server_key = "{keys.path("broker")}"
[[mdp.listen]]
endpoint = "tcp://127.0.0.1:0"
[[mdp.listen]]
endpoint = "tcp://127.0.0.1:0"
mechanism = "curve"
[principals.anonymous]
serve = ["upper", "count"]
call = ["mmi.*"]
[principals.shop]
keys = ["{shop}"]
call = ["upper"]
""",
        mdp_option=False,
    )
    serve(broker, "worker.py", broker.endpoints[0])
    locked = broker.endpoints[1]
    server = keys.directory / "broker.key.pub"
    assert call(name, locked, server, keys.path("shop")) == "HELLO\n"


def test_every_example_is_run_and_listed():
    """Each file is named in a test here and in the README beside it."""
    ours = "".join(path.read_text() for path in Path(__file__).parent.glob("*.py"))
    # A drone's are run beside the drone itself, which starts them by their names in a file.
    drones = EXAMPLES.parent / "tests/interop/test_drone.py"
    assert 'EXAMPLE = HERE.parent.parent / "examples/drone"' in drones.read_text()
    started = (EXAMPLES / "drone/drone.toml").read_text()
    listed = (EXAMPLES / "README.md").read_text()
    files = [p for p in EXAMPLES.glob("*/*") if p.suffix in (".py", ".mjs", ".sh")]
    assert len(files) > 15
    for path in files:
        named = started if path.parent.name == "drone" else ours
        assert f'"{path.name}"' in named, f"{path.name} is not run"
        assert f"({path.parent.name}/{path.name})" in listed, f"{path.name} is not listed"
