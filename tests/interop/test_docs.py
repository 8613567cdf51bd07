"""The guide, word by word: its Python programs and its command lines against a fresh broker."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from broker import HERE, binary, quiet_environment
from process import Child

ROOT = HERE.parent.parent
DEFAULT_MDP = "tcp://127.0.0.1:5555"
DEFAULT_HTTP = "http://127.0.0.1:8080"


def program(page, name, broker, directory):
    """The fenced program `name` of a page, as a file that talks to this broker."""
    text = (ROOT / page).read_text()
    found = re.search(rf"^```python {re.escape(name)}\n(.*?)^```$", text, re.M | re.S)
    assert found, f"{page} has no program {name}"
    path = Path(directory) / name
    path.write_text(found[1].replace(DEFAULT_MDP, broker.endpoint))
    return path


def python(broker, path):
    """A program that stays; ends with the test."""
    child = Child([sys.executable, "-u", path], env=quiet_environment(), cwd=broker.directory)
    child.close = child.terminate
    return broker.own(child)


def test_the_majordomo_page_serves_a_python_user(broker, tmp_path):
    python(broker, program("docs/mdp.md", "worker.py", broker, tmp_path))
    broker.wait_workers("upper", 1)
    client = program("docs/mdp.md", "client.py", broker, tmp_path)
    done = subprocess.run([sys.executable, client], capture_output=True, timeout=20)
    assert (done.returncode, done.stdout) == (0, b"upper [b'HELLO']\n"), done.stderr


def test_the_paranoid_pirate_page_serves_a_python_user(start, tmp_path):
    """Its queue, worker and client as they stand there, on other ports; then its commands."""
    text = (ROOT / "docs/paranoid-pirate.md").read_text()
    (queue,) = re.findall(r"^```toml\n(.*?)^```$", text, re.M | re.S)
    broker = start(re.sub(r"127\.0\.0\.1:557\d", "127.0.0.1:0", queue))
    ends = {"tcp://127.0.0.1:5570": broker.front, "tcp://127.0.0.1:5571": broker.back}

    def moved(source):
        for old, new in ends.items():
            source = source.replace(old, new)
        return source

    for name in ("worker.py", "client.py"):
        path = program("docs/paranoid-pirate.md", name, broker, tmp_path)
        path.write_text(moved(path.read_text()))
    worker = python(broker, tmp_path / "worker.py")
    broker.wait_workers("echo", 1)
    client = [sys.executable, tmp_path / "client.py"]
    done = subprocess.run(client, capture_output=True, timeout=20)
    assert (done.returncode, done.stdout) == (0, b"[b'HELLO']\n"), done.stderr
    worker.terminate()
    broker.wait_workers("echo", 0)
    lines = [moved(line) for line in re.findall(r"^\$ maitred (.*)$", text, re.M)]
    work, call = (f"exec {binary()} {line}" for line in lines)
    child = Child(["sh", "-c", work], env=quiet_environment(), cwd=broker.directory)
    child.close = child.terminate
    broker.own(child)
    broker.wait_workers("echo", 1)
    done = subprocess.run(["sh", "-c", call], capture_output=True, timeout=20)
    assert (done.returncode, done.stdout) == (0, b"HELLO\n"), done.stderr


def test_the_stomp_page_serves_a_python_user(broker, tmp_path):
    """Its worker and its client as they stand there; then its login."""
    where = f'("127.0.0.1", {broker.stomp_address[1]})'
    for name in ("worker.py", "client.py"):
        path = program("docs/stomp.md", name, broker, tmp_path)
        path.write_text(path.read_text().replace('("127.0.0.1", 61613)', where))
    python(broker, tmp_path / "worker.py")
    broker.wait_workers("upper", 1)
    client = [sys.executable, tmp_path / "client.py"]
    done = subprocess.run(client, capture_output=True, timeout=20)
    assert (done.returncode, done.stdout) == (0, b"200 HELLO\n"), done.stderr
    text = (ROOT / "docs/stomp.md").read_text()
    (login,) = re.findall(r"^```toml\n(.*?)^```$", text, re.M | re.S)
    (tmp_path / "shop.toml").write_text(login)
    (tmp_path / "shop.password").write_text("a cup of tea\n")
    (tmp_path / "shop.password").chmod(0o600)
    check = [binary(), "check", tmp_path / "shop.toml"]
    subprocess.run(check, env=quiet_environment(), check=True, capture_output=True)


def test_the_match_page_lets_two_programs_meet(start, tmp_path):
    """Its places as they are declared there, its program twice, and what the page says it prints."""
    text = (ROOT / "docs/match.md").read_text()
    (places,) = re.findall(r"^```toml\n(.*?)^```$", text, re.M | re.S)
    broker = start(places)
    path = program("docs/match.md", "meet.py", broker, tmp_path)
    shown = re.findall(r'^\$ python3 meet.py (\w+) "(.*)"\n(.*)$', text, re.M)
    assert [word for word, _, _ in shown] == ["ask", "ask_r"]
    running = [
        subprocess.Popen([sys.executable, path, word, value], stdout=subprocess.PIPE, text=True)
        for word, value, _ in shown
    ]
    try:
        for (_, _, printed), one in zip(shown, running):
            assert one.communicate(timeout=20)[0] == printed + "\n"
            assert one.returncode == 0
    finally:
        for one in running:
            one.kill()
            one.wait()


def shown_pattern(text):
    """What a page shows of an answer, numbers and tokens being what they are."""
    pattern = re.escape(text).replace("…", ".*")
    return re.sub(r"[0-9a-f]{13}\\-[0-9a-f]{13}|[0-9]{16}", "[0-9a-f-]+", pattern)


def test_the_tasks_page_survives_what_it_says(broker):
    """Its commands in their order: curl as it stands there, and the ends of the broker for real."""
    page = (ROOT / "docs/tasks.md").read_text()
    section = page.split("## See it survive")[1].split("\n## ")[0]
    lines = "\n".join(re.findall(r"^```console\n(.*?)^```$", section, re.M | re.S)).splitlines()
    words, answers, assigned = [], [], ""
    assert lines.pop(0) == "$ maitred serve"
    for line in lines:
        command = line.removeprefix("$ ").replace(DEFAULT_HTTP, broker.http_url)
        if line.startswith("$ kill -9 "):
            broker.kill()
        elif command == "maitred serve":
            broker.restart()
        elif line.startswith("$ TOKEN="):
            run = f'{command}; printf %s "$TOKEN"'
            token = subprocess.run(["sh", "-c", run], capture_output=True, text=True, timeout=20)
            assigned = f"TOKEN={token.stdout}; "
        elif line.startswith("$ curl "):
            run = ["sh", "-c", assigned + command.replace("curl ", "curl -s ", 1)]
            done = subprocess.run(run, capture_output=True, text=True, timeout=20)
            words.append(command)
            answers.append(done.stdout.strip())
        elif line:
            assert re.fullmatch(shown_pattern(line), answers[-1]), (line, answers[-1])
            answers[-1] = None
    assert len(words) == 3 and answers == [None] * 3


def test_the_tasks_page_serves_a_python_worker(broker, tmp_path):
    child = python(broker, program("docs/tasks.md", "worker.py", broker, tmp_path))
    answer = broker.request("POST", "/v1/tasks/mail?wait=10s", b"to: all")
    assert (answer.json()["state"], answer.json()["result"]) == ("done", "sent")
    assert child.line(lambda line: line.startswith("sending")) == "sending to: all"


def test_the_commands_of_the_tasks_page(broker):
    page = (ROOT / "docs/tasks.md").read_text()
    section = page.split("## On the command line")[1].split("\n## ")[0]
    commands = re.findall(r"^\$ maitred (.*?)(?: +#.*)?$", section, re.M)
    assert len(commands) == 9
    environment = quiet_environment() | {"MAITRED_HTTP": broker.http_url}
    id = str(broker.request("POST", "/v1/tasks/report", b"").json()["id"])
    for command in commands:
        waits = "--wait" in command
        if waits:
            worker = subprocess.Popen(
                ["sh", "-c", 'T=$(curl -s -d \'{"types":["sum"],"wait_ms":9000}\' "$1/v1/leases" |'
                 ' sed \'s/.*"token":"\\([^"]*\\).*/\\1/\'); curl -s -d 3 "$1/v1/leases/$T/complete"',
                 "sh", broker.http_url], stdout=subprocess.DEVNULL,
            )
        words = shlex.split(command.replace("maitred-data", "data"))
        words = [id if re.fullmatch(r"\d{16}", word) else word for word in words]
        done = subprocess.run(
            [binary(), *words], env=environment, capture_output=True, text=True, timeout=20,
            cwd=broker.directory, stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, (command, done.stderr)
        if waits:
            assert done.stdout == "3\n"
            assert worker.wait(timeout=10) == 0


def test_the_readme_serves_a_python_user(broker, tmp_path):
    python(broker, program("docs/mdp.md", "worker.py", broker, tmp_path))
    broker.wait_workers("upper", 1)
    text = (ROOT / "README.md").read_text()
    found = re.search(r"^```python\n(.*?)^```$", text, re.M | re.S)
    source = found[1].replace(DEFAULT_MDP, broker.endpoint)
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, timeout=20)
    assert (done.returncode, done.stdout) == (0, b"[b'MDPC01', b'upper', b'HELLO']\n"), done.stderr


def test_the_persistent_worker_of_the_commands_page(broker, tmp_path):
    upper = program("docs/commands.md", "upper.py", broker, tmp_path)
    work = [binary(), "work", "upper", "--persistent", "-n", "4", "--mdp", broker.endpoint, "--"]
    child = Child([*work, sys.executable, upper], env=quiet_environment(), cwd=broker.directory)
    child.close = child.terminate
    broker.own(child)
    broker.wait_workers("upper", 1)
    for word in (b"hello", b"again"):
        assert broker.post("upper", word).body == word.upper()


@pytest.mark.parametrize("page", ["README.md", "docs/README.md"])
def test_the_first_commands(broker, page):
    """`maitred work` in one terminal, `maitred call` and `curl` in another, as the page has them."""
    text = (ROOT / page).read_text()
    lines = re.findall(r"^\$ (.*?)(?: +#.*)?$", text, re.M)
    environment = quiet_environment() | {
        "MAITRED_MDP": broker.endpoint,
        "MAITRED_HTTP": broker.http_url,
        "PATH": f"{binary().parent}:{quiet_environment()['PATH']}",
    }
    (work,) = [line for line in lines if line.startswith("maitred work upper")]
    child = Child(["sh", "-c", f"exec {work}"], env=environment, cwd=broker.directory)
    child.close = child.terminate
    broker.own(child)
    broker.wait_workers("upper", 1)
    calls = [line for line in lines if line.startswith(("maitred call upper", "curl"))]
    assert len(calls) == 2
    for line in calls:
        line = line.replace(DEFAULT_HTTP, broker.http_url)
        done = subprocess.run(
            ["sh", "-c", line], env=environment, capture_output=True, timeout=20
        )
        assert (done.returncode, done.stdout.strip()) == (0, b"HELLO"), (line, done.stderr)


def test_the_whole_configuration_of_the_docs_is_accepted(tmp_path):
    """Every key the page shows, optional ones and every valve included, passes `maitred check`."""
    text = (ROOT / "docs/configuration.md").read_text()
    shown, lines = re.findall(r"^```toml\n(.*?)^```$", text, re.M | re.S)
    disciplines = (ROOT / "docs/disciplines.md").read_text()
    valves = re.findall(r"^\| `(\{ kind .*?\})` \|", disciplines, re.M)
    assert len(valves) == 6
    lines += "".join(f"[services.v{n}]\nvalve = {valve}\n" for n, valve in enumerate(valves))
    uncommented = re.sub(r"^# (token = \"[^\"]*\").*$", r"\1", shown, flags=re.M)
    assert 'token = "' in uncommented
    file = tmp_path / "maitred.toml"
    for shown in (uncommented, lines):
        file.write_text(shown)
        done = subprocess.run([binary(), "check", file], capture_output=True, timeout=20)
        assert done.returncode == 0, done.stderr


def simulated(page):
    """Commands of a page with what it shows of their answers."""
    blocks = re.findall(r"^```console\n(.*?)^```$", (ROOT / page).read_text(), re.M | re.S)
    parts = [block.removeprefix("$ maitred ").split("\n", 1) for block in blocks]
    return [(shlex.split(command), shown.rstrip("\n")) for command, shown in parts]


def simulate(arguments, directory=ROOT):
    """What `maitred simulate` prints; it must succeed."""
    done = subprocess.run(
        [binary(), *arguments], capture_output=True, text=True, timeout=60, cwd=directory
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_simulations_come_out_as_shown(tmp_path):
    """Every command of the page; then its description and its trace as files."""
    page = (ROOT / "docs/simulate.md").read_text()
    described, again, recorded = simulated("docs/simulate.md")
    for arguments, shown in (described, again):
        assert len(shown.splitlines()) > 4
        assert simulate(arguments).startswith(shown + "\n")
    texts = re.findall(r"^```text\n(.*?)^```$", page, re.M | re.S)
    sketch, trace = texts
    assert simulate(described[0]).endswith("\n" + sketch)
    (tmp_path / "arrivals.csv").write_text(trace)
    assert simulate(recorded[0], tmp_path).startswith("2 requests in 0.005 s")
    (load,) = re.findall(r"^```toml\n(.*?)^```$", page, re.M | re.S)
    (tmp_path / "load.toml").write_text(load)
    out = json.loads(simulate(["simulate", "load.toml", "--json"], tmp_path))
    assert [line["line"] for line in out["lines"]] == ["careful"]
    assert len(out["lines"][0]["clients"]) == 3


def test_the_page_on_disciplines_shows_what_it_says(tmp_path):
    """Its pictures and tables are made by the commands it names, and its rules are accepted."""
    page = (ROOT / "docs/disciplines.md").read_text()
    commands = re.findall(r"`maitred (simulate [^`]*) --plot ([^`]*)`", page)
    told = {}
    for command, committed in commands:
        picture = tmp_path / Path(committed).name
        told[picture.name] = simulate([*command.split(), "--plot", picture])
        assert picture.read_text() == (ROOT / committed).read_text()
    rush, orders = told["rush.svg"], told["orders.svg"]
    greedy = simulate(["simulate", "docs/simulate/greedy.toml"])
    tables = re.findall(r"^```text\n(.*?)^```$", page, re.M | re.S)
    for table, out in zip(tables, (rush, orders, greedy), strict=True):
        assert f"\n\n{table}\n" in out
    rules = re.findall(r"^```toml\n(.*?)^```$", page, re.M | re.S)
    valves = re.findall(r"^\| `(\{ kind = .*? \})` \|", page, re.M)
    assert len(valves) == 6
    guards = re.findall(r"^`((?:protect|alarm) = \{.*?\})`", page, re.M)
    assert len(guards) == 2
    rules += [f"[services.v{n}]\nvalve = {valve}\n" for n, valve in enumerate(valves)]
    rules += ["[defaults]\n", *(f"{guard}\n" for guard in guards)]
    file = tmp_path / "maitred.toml"
    file.write_text("".join(rules))
    done = subprocess.run([binary(), "check", file], capture_output=True, timeout=20)
    assert done.returncode == 0, done.stderr


def test_the_demo_ends_well():
    done = subprocess.run(
        [binary(), "demo", "--seconds", "1"], capture_output=True, timeout=30,
        env=quiet_environment(),
    )
    assert done.returncode == 0, done.stderr
    assert b'"HELLO, MAITRE D\'"' in done.stdout and b"6. The broker was drained" in done.stdout


def test_the_five_steps_lock_a_broker(tmp_path):
    """Each step of the security page as it stands there, on a port of the system's choice."""
    text = (ROOT / "docs/security.md").read_text()
    blocks = re.findall(r"^ *```(\w+)\n(.*?)^ *```$", text, re.M | re.S)
    make, config, check, serve = [body for _, body in blocks[:4]]
    run = {"cwd": tmp_path, "env": quiet_environment(), "check": True, "capture_output": True}

    def console(block):
        return [line.strip().removeprefix("$ ").split() for line in block.splitlines()]

    for command in console(make):
        subprocess.run([binary(), *command[1:]], **run)
    for name in ("shop", "resizer"):
        public = (tmp_path / f"{name}.key.pub").read_text().strip()
        config = re.sub(rf"…[^…]*{name}[^…]*…", lambda _, key=public: key, config)
    (tmp_path / "maitred.toml").write_text(config.replace("…", ""))
    for command in console(check):
        subprocess.run(command if command[0] == "chmod" else [binary(), *command[1:]], **run)
    (command,) = console(serve)
    command = [part.strip("'").replace("*:5555", "127.0.0.1:0") for part in command[1:]]
    broker = Child(
        [binary(), *command, "--stomp", "off", "--http", "127.0.0.1:0"], cwd=tmp_path, env=quiet_environment()
    )
    try:
        endpoint = broker.line(lambda line: line.startswith("listening mdp")).split()[-1]
        proof = ["--mdp", endpoint, "--server-key", "broker.key.pub", "--key"]
        worker = Child(
            [binary(), "work", "resize", *proof, "resizer.key", "--", "cat"],
            cwd=tmp_path,
            env=quiet_environment(),
        )
        try:
            call = [binary(), "call", "resize", "a photo", *proof]
            called = subprocess.run([*call, "shop.key"], **run)
            assert called.stdout == b"a photo\n"
            # The resizer may not call, and nobody comes in without a key.
            for stranger in ([*call, "resizer.key"], [*call[:4], "--mdp", endpoint]):
                refused = {**run, "check": False}
                done = subprocess.run([*stranger, "--timeout", "1s"], **refused)
                assert done.returncode == 3, done.stderr
        finally:
            worker.terminate()
    finally:
        broker.terminate()
