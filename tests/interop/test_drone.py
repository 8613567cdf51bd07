"""Drones as processes: their workers, what kills them, and a ledger that nothing is lost."""

import contextlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from broker import HERE, binary, quiet_environment
from process import Child, wait_until
from tasks import Tasks

EXAMPLE = HERE.parent.parent / "examples/drone"
PYTHON = json.dumps(sys.executable)

# Notes each start of a task in a file, so that the test knows what ran, how often, and where.
NOTING = """
import json, os, sys, time
for line in sys.stdin:
    task = json.loads(line)
    with open("starts", "a") as starts:
        print(task["id"], os.getpid(), file=starts, flush=True)
    what = task["payload"]
    while what == "hold" and not os.path.exists("go"):
        time.sleep(0.01)
    if what == "once" and task["attempt"] == 1:
        time.sleep(3600)
    print(json.dumps({"result": what.upper()}), flush=True)
"""


class Drone:
    def __init__(self, broker, directory, tasks, *, head="", name="drone"):
        self.broker = broker
        self.directory = Path(directory) / name
        self.directory.mkdir()
        (self.directory / "noting.py").write_text(NOTING)
        self.file = self.directory / "drone.toml"
        self.head = f'alias = "{name}"\nhttp = "127.0.0.1:0"\npoll = "200ms"\n{head}\n'
        if "global" not in head:
            self.head = f'global = "{broker.http_url}"\n' + self.head
        self.write(tasks)
        self.start()

    def write(self, tasks):
        self.file.write_text(self.head + tasks)

    def start(self):
        command = [binary(), "drone", "-c", self.file]
        self.child = Child(command, env=quiet_environment(), cwd=self.directory)
        self.child.close = self.child.terminate
        self.broker.own(self.child)
        self.child.line(lambda line: line == "ready", timeout=15.0)
        (line,) = [line for line in self.child.stdout if line.startswith("http ")]
        self.url = line.split()[1]

    def get(self, path):
        with urllib.request.urlopen(self.url + path, timeout=10) as answer:
            return answer.read().decode()

    def pool(self, task_type):
        (status,) = json.loads(self.get("/v1/drones"))["drones"]
        (pool,) = [pool for pool in status["pools"] if pool["task_type"] == task_type]
        return pool

    def busy(self, task_type, count=1):
        def busy():
            tasks = [worker["task"] for worker in self.pool(task_type)["workers"]]
            return len([task for task in tasks if task is not None]) >= count

        wait_until(busy, f"{count} workers of {task_type} are busy", 15.0)

    def starts(self):
        """Who started what: (task, pid), in order."""
        path = self.directory / "starts"
        lines = path.read_text().splitlines() if path.exists() else []
        return [tuple(map(int, line.split())) for line in lines]

    def command(self, *arguments):
        command = [binary(), "drone", *arguments, "--http", self.url]
        done = subprocess.run(command, env=quiet_environment(), capture_output=True, text=True, timeout=20)
        return done


def noting(name="work", more=""):
    return f'[tasks.{name}]\npersistent = [{PYTHON}, "noting.py"]\ndir = "."\n{more}\n'


@pytest.fixture
def tasks(broker):
    return Tasks(broker)


def ended(tasks, id, state="done", timeout=20.0):
    return wait_until(lambda: (tasks.show(id)["state"] == state) and tasks.show(id), f"{id} is {state}", timeout)


def test_swarmages_own_example(broker, tasks, tmp_path):
    """A factorial, then its hexadecimal form, from one file and two scripts as they stand there."""
    shutil.copytree(EXAMPLE, tmp_path / "example")
    file = tmp_path / "example/drone.toml"
    text = file.read_text().replace("http://127.0.0.1:8080", broker.http_url)
    file.write_text(text.replace('data = "../../maitred-drone"', 'data = "data"\nhttp = "off"'))
    checked = subprocess.run([binary(), "check", file], capture_output=True, text=True, timeout=20)
    assert (checked.returncode, checked.stdout) == (0, f"{file}: ok\n"), checked.stderr
    drone = Child([binary(), "drone", "-c", file], env=quiet_environment(), cwd=tmp_path)
    drone.close = drone.terminate
    broker.own(drone)
    answer = tasks.good("POST", "/v1/tasks/factorial?wait=15s", b"20")
    assert (answer["state"], answer["result"]) == ("done", "0x21c3677c82b40000")
    refused = tasks.enqueue("factorial", b"x")
    assert "invalid literal" in ended(tasks, refused, "dead")["last_error"]


def test_a_killed_workers_task_is_done_by_another(broker, tasks, tmp_path):
    drone = Drone(broker, tmp_path, noting(more="workers = 2"))
    id = tasks.enqueue("work", b"hold")
    ((_, pid),) = wait_until(drone.starts, "it began", 15.0)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: len(drone.starts()) == 2, "another began", 15.0)
    (_, (again, other)) = drone.starts()
    assert again == id and other != pid
    (drone.directory / "go").touch()
    shown = ended(tasks, id)
    assert (shown["result"], shown["attempt"]) == ("HOLD", 1)
    assert drone.pool("work")["counts"]["lost"] == 1


def test_a_killed_drone_goes_on_where_it_was(broker, tasks, tmp_path):
    drone = Drone(broker, tmp_path, noting(more="workers = 2"), head='lease = "60s"')
    ids = [tasks.enqueue("work", b"hold") for _ in range(5)]
    drone.busy("work", 2)
    wait_until(lambda: drone.pool("work")["counts"]["fetched"] == 5, "all are fetched", 15.0)
    workers = {pid for _, pid in wait_until(lambda: len(drone.starts()) == 2 and drone.starts(), "two began", 15.0)}

    def written():
        """Of a copy: the drone has the file for itself."""
        copy = tmp_path / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(drone.directory / "maitred-drone", copy)
        with contextlib.closing(sqlite3.connect(copy / "local.db")) as local:
            (count,) = local.execute("SELECT count(*) FROM held").fetchone()
        return count == len(ids)

    wait_until(written, "the local queue is written", 15.0)
    drone.child.kill()
    for pid in workers:
        wait_until(lambda: not Path(f"/proc/{pid}").exists() or b"\0" not in Path(f"/proc/{pid}/cmdline").read_bytes(), "its workers end with it", 15.0)
    (drone.directory / "go").touch()
    drone.start()
    for id in ids:
        shown = ended(tasks, id, timeout=30.0)
        assert (shown["result"], shown["attempt"]) == ("HOLD", 1), "the lease of its first life"


def test_kill_9_of_drones_and_broker_loses_nothing_and_settles_nothing_twice(broker, tasks, tmp_path):
    """Two drones on one queue; now and then one of the three is killed. The ledger is the test's."""
    work = noting(more='workers = "1..3"\ngrow_wait = "10ms"\ngrow_interval = "50ms"')
    drones = [Drone(broker, tmp_path, work, head='lease = "2s"', name=name) for name in ("east", "west")]
    ids = []
    for round in range(6):
        for number in range(40):
            ids.append(tasks.enqueue("work", f"r{round}n{number}".encode()))
        victim = round % 3
        if victim == 2:
            broker.kill()
            broker.restart()
        else:
            drones[victim].child.kill()
            drones[victim].start()
    for id in ids:
        ended(tasks, id, timeout=60.0)
    # Done once: what is settled twice would have been refused or have another result.
    results = [tasks.show(id)["result"] for id in ids]
    assert results == [f"R{round}N{number}" for round in range(6) for number in range(40)]


def test_draining_finishes_what_is_begun_and_gives_back_the_rest(broker, tasks, tmp_path):
    drone = Drone(broker, tmp_path, noting())
    ids = [tasks.enqueue("work", b"hold") for _ in range(4)]
    drone.busy("work")
    drone.child.signal(signal.SIGTERM)
    for id in ids[1:]:
        ended(tasks, id, "ready")
    (drone.directory / "go").touch()
    assert drone.child.wait(20.0) == 0
    assert tasks.show(ids[0])["state"] == "done"
    assert [tasks.show(id)["attempt"] for id in ids[1:]] == [0, 0, 0]


def test_it_is_steered_and_seen(broker, tasks, tmp_path):
    drone = Drone(broker, tmp_path, noting())
    assert drone.command("pause", "work").returncode == 0
    id = tasks.enqueue("work", b"x")
    assert drone.pool("work")["paused"]
    table = drone.command("status").stdout
    assert re.search(r"^work +1 of 1\.\.1 .* paused$", table, re.M), table
    assert drone.command("resume", "work").returncode == 0
    assert ended(tasks, id)["result"] == "X"
    assert drone.command("scale", "work", "2..4").returncode == 0
    wait_until(lambda: len(drone.pool("work")["workers"]) == 2, "two workers", 15.0)
    unknown = drone.command("pause", "wrok")
    assert unknown.returncode == 1 and "no task type" in unknown.stderr
    bad = drone.command("scale", "work", "4..2")
    assert bad.returncode == 2 and "2..8" in bad.stderr
    metrics = drone.get("/metrics")
    assert 'maitred_drone_done_total{type="work"} 1\n' in metrics and metrics.endswith("# EOF\n")
    # Nobody else's page steers it.
    path = f"/v1/drones/types/{'work'}/pause"
    request = urllib.request.Request(drone.url + path, b"", {"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=10)
    assert refused.value.code == 403


def test_sighup_reads_the_file_again(broker, tasks, tmp_path):
    drone = Drone(broker, tmp_path, noting())
    drone.write(noting(more="workers = 3") + f'[tasks.echo]\ncommand = ["cat"]\n')
    drone.child.signal(signal.SIGHUP)
    assert ended(tasks, tasks.enqueue("echo", b"new"))["result"] == "new"
    wait_until(lambda: len(drone.pool("work")["workers"]) == 3, "three workers", 15.0)
    drone.write("[tasks.echo]\ncommand = []\n")
    drone.child.signal(signal.SIGHUP)
    wait_until(lambda: any("the command is empty" in line for line in drone.child.stderr), "it says why not", 15.0)
    assert ended(tasks, tasks.enqueue("work", b"still"))["result"] == "STILL"


def test_limits_hold(broker, tasks, tmp_path):
    """Memory by a control group where the machine lets us, else by address space; files always."""
    hungry = "x = b'x' * (400 << 20); print(len(x))"
    files = "import resource; print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    drone = Drone(
        broker,
        tmp_path,
        f'[tasks.hungry]\ncommand = [{PYTHON}, "-c", {json.dumps(hungry)}]\n'
        'memory = "200MiB"\nlost_again = 0\nfailed = "reject"\n'
        f'[tasks.files]\ncommand = [{PYTHON}, "-c", {json.dumps(files)}]\nopen_files = 77\n'
        f'[tasks.spin]\ncommand = [{PYTHON}, "-c", "while True: pass"]\ncpu_seconds = 1\nlost_again = 0\n',
        head='[log]\nlevel = "debug"\n',
    )
    assert ended(tasks, tasks.enqueue("files"))["result"] == "77\n"
    spun = ended(tasks, tasks.enqueue("spin", max_attempts=1), "dead")["last_error"]
    assert "signal: 9" in spun or "signal: 24" in spun, spun
    died = ended(tasks, tasks.enqueue("hungry", max_attempts=1), "dead", 40.0)["last_error"]
    grouped = not any("no control group" in line for line in drone.child.stderr)
    print("memory is bounded by", "a control group" if grouped else "address space", ":", died)
    assert "signal: 9" in died if grouped else "MemoryError" in died, died


def test_a_drone_may_have_a_store_of_its_own(broker, tmp_path):
    """A SQLite file as the global queue, without any broker; what is in it was put there before."""
    path = tmp_path / "tasks.db"
    drone = Drone(broker, tmp_path, noting(), head=f'global = "sqlite:{path}"')
    second = Child([binary(), "drone", "-c", drone.file], env=quiet_environment(), cwd=drone.directory)
    broker.own(second).close = second.terminate
    assert second.wait(20.0) == 1
    assert "another maitred uses it" in second.output()
    assert drone.child.terminate() == 0


@pytest.mark.parametrize(
    "text, why",
    [
        ("", "there is no task type"),
        ("[tasks.a]\ncommand = ['x']\ncolour = 1\n", ":3: unknown field `colour`"),
        ("[tasks.a]\n", "neither command nor persistent"),
    ],
)
def test_a_bad_file_is_refused_with_its_line(tmp_path, text, why):
    file = tmp_path / "drone.toml"
    file.write_text(text)
    done = subprocess.run([binary(), "drone", "-c", file], capture_output=True, text=True, timeout=20)
    assert done.returncode == 2 and why in done.stderr, done.stderr


def test_the_guides_page(broker, tasks, tmp_path):
    """Its files are accepted, the first one and the Python worker do what it says."""
    page = (HERE.parent.parent / "docs/drone.md").read_text()
    files = re.findall(r"^```toml\n(.*?)^```$", page, re.M | re.S)
    assert len(files) == 2
    for number, text in enumerate(files):
        file = tmp_path / f"{number}.toml"
        file.write_text(text)
        checked = subprocess.run([binary(), "check", file], capture_output=True, text=True, timeout=20)
        assert checked.returncode == 0, checked.stderr
    worker = re.search(r"^```python worker.py\n(.*?)^```$", page, re.M | re.S)[1]
    drone = Drone(broker, tmp_path, files[0] + f'[tasks.lines]\npersistent = [{PYTHON}, "worker.py"]\ndir = "."\n')
    (drone.directory / "worker.py").write_text(worker)
    command = [binary(), "enqueue", "upper", "hello", "--wait", "15s", "--http", broker.http_url]
    done = subprocess.run(command, env=quiet_environment(), capture_output=True, text=True, timeout=20)
    assert (done.returncode, done.stdout.strip()) == (0, "HELLO"), done.stderr
    assert ended(tasks, tasks.enqueue("lines", b"line"))["result"] == "LINE"
    assert re.search(r"^upper +1 of 1\.\.4 ", drone.command("status").stdout, re.M)
