"""What users install: the wheel, its types, and the examples of the README."""

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from broker import quiet_environment
from process import Child

PACKAGE = Path(__file__).resolve().parent.parent
DEFAULT_MDP = "tcp://127.0.0.1:5555"
DEFAULT_HTTP = "http://127.0.0.1:8080"


def readme_programs():
    """Programs of the README and of the guide, by name."""
    pages = (PACKAGE / "README.md", PACKAGE.parents[1] / "docs/python.md")
    text = "".join(page.read_text() for page in pages)
    return dict(re.findall(r"^```python (\S+)\n(.*?)^```$", text, re.M | re.S))


def test_the_wheel_has_the_package_and_its_types(tmp_path):
    build = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    build += ["--disable-pip-version-check", "-q", "-w", tmp_path, PACKAGE]
    done = subprocess.run(build, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("maitred-*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = PACKAGE / "src"
    modules = {str(path.relative_to(sources)) for path in sources.rglob("*.py")}
    assert modules | {"maitred/py.typed"} <= names


def test_types_hold(tmp_path):
    """`mypy --strict` finds nothing, here, in the programs of the README and in the examples."""
    programs = {f"page_{name}": source for name, source in readme_programs().items()}
    for path in (PACKAGE.parents[1] / "examples/python").glob("*.py"):
        programs[f"example_{path.name}"] = path.read_text()
    for name, source in programs.items():
        (tmp_path / name).write_text(source)
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", tmp_path / "cache"]
    done = subprocess.run(
        [*command, "--config-file", PACKAGE / "pyproject.toml", "src", *tmp_path.glob("*.py")],
        capture_output=True, text=True, timeout=55, cwd=PACKAGE,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_everything_public_has_a_text():
    import maitred

    for name in maitred.__all__:
        thing = getattr(maitred, name)
        if not isinstance(thing, type):
            continue
        assert thing.__doc__, name
        for attribute, member in vars(thing).items():
            if not attribute.startswith("_") and callable(member):
                assert member.__doc__, f"{name}.{attribute}"


@pytest.fixture
def readme(broker, tmp_path):
    """Runs a program of the README against the broker."""

    def start(name):
        source = readme_programs()[name]
        path = tmp_path / name
        path.write_text(
            source.replace(DEFAULT_MDP, broker.endpoint).replace(DEFAULT_HTTP, broker.http_url)
        )
        child = Child([sys.executable, "-u", path], env=quiet_environment(), cwd=tmp_path)
        child.close = child.kill
        return broker.own(child)

    return start


@pytest.mark.parametrize("kind", ["", "async_"])
def test_the_readme_serves_and_calls(readme, broker, kind):
    worker = readme(f"{kind}worker.py")
    broker.wait_workers("resize", 1, timeout=15)
    client = readme(f"{kind}client.py")
    assert client.wait(30) == 0, client.output()
    assert client.stdout == ["a photo, but smaller"], client.output()
    many = readme("many.py") if not kind else readme("async_many.py")
    assert many.wait(30) == 0, many.output()
    assert many.stdout == ["100 photos, but smaller"], many.output()
    assert worker.terminate() == 0, worker.output()


def test_the_guide_is_careful(readme, broker):
    client = readme("careful.py")
    assert client.wait(30) == 0, client.output()
    assert client.stdout == ["look whether it was charged"], client.output()
    broker.serve("charge", lambda body: [b"charged"])
    client = readme("careful.py")
    assert client.wait(30) == 0, client.output()
    assert client.stdout == ["charged"], client.output()


def test_the_guide_has_a_pool_of_processes(readme, broker):
    pool = readme("pool.py")
    pool.close = pool.terminate
    broker.wait_workers("primes", 2, timeout=20)
    assert broker.post("primes", b"100").body == b"25"
    assert pool.terminate() == 0, pool.output()
    assert broker.workers("primes") == 0


def test_the_readme_streams(readme, broker):
    readme("counter.py")
    broker.wait_workers("count", 1, timeout=15)
    client = readme("stream.py")
    assert client.wait(30) == 0, client.output()
    assert client.stdout == ["1", "2", "3", "done"], client.output()
