"""Child processes whose output is waited for, line by line, with a bound."""

import contextlib
import queue
import signal
import subprocess
import threading
import time
from pathlib import Path


class Child:
    """A process in its own right: its lines are kept, its end is by pid and always bounded."""

    def __init__(self, command, *, env=None, cwd=None):
        self.command = [str(part) for part in command]
        self.popen = subprocess.Popen(
            self.command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=env,
            cwd=cwd,
            text=True,
            errors="replace",
        )
        self.stdout, self.stderr = [], []
        self._fresh = queue.Queue()
        self._readers = [
            threading.Thread(target=self._read, args=args, daemon=True)
            for args in (
                (self.popen.stdout, self.stdout, self._fresh),
                (self.popen.stderr, self.stderr, None),
            )
        ]
        for reader in self._readers:
            reader.start()

    @staticmethod
    def _read(stream, kept, fresh):
        for line in stream:
            kept.append(line.rstrip("\n"))
            if fresh is not None:
                fresh.put(kept[-1])
        if fresh is not None:
            fresh.put(None)

    @property
    def pid(self):
        return self.popen.pid

    def running(self):
        return self.popen.poll() is None

    def line(self, wanted, timeout=10.0):
        """The next line of stdout for which `wanted` holds; lines before it are passed over."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                line = self._fresh.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                line = None
            if line is None:
                raise AssertionError(
                    f"{self.command} did not print the awaited line in {timeout} s "
                    f"(exit status {self.popen.poll()})\n{self.output()}"
                )
            if wanted(line):
                return line

    def signal(self, number):
        self.popen.send_signal(number)

    def state(self):
        """The kernel's letter for it: T is stopped."""
        return Path(f"/proc/{self.pid}/stat").read_text().rsplit(")", 1)[1].split()[0]

    @contextlib.contextmanager
    def frozen(self):
        """While this lasts the process does nothing: all that arrives, arrives at once for it."""
        self.signal(signal.SIGSTOP)
        try:
            wait_until(lambda: self.state() == "T", "the process is stopped")
            yield
        finally:
            self.signal(signal.SIGCONT)

    def kill(self):
        if self.running():
            self.popen.kill()
        return self.wait()

    def terminate(self, timeout=5.0):
        """SIGTERM, then SIGKILL after the bound. Gives the exit status."""
        if self.running():
            self.signal(signal.SIGTERM)
            # A stopped process would sleep through its own end.
            self.signal(signal.SIGCONT)
        try:
            return self.wait(timeout)
        except subprocess.TimeoutExpired:
            return self.kill()

    def wait(self, timeout=10.0):
        status = self.popen.wait(timeout)
        for reader in self._readers:
            reader.join(timeout=2.0)
        return status

    def output(self):
        return "\n".join(["--- stdout", *self.stdout[-60:], "--- stderr", *self.stderr[-60:]])


def wait_until(holds, what, timeout=5.0, every=0.01):
    """Waits for a state, never for a time; gives what `holds` gave."""
    deadline = time.monotonic() + timeout
    while True:
        last = holds()
        if last:
            return last
        if time.monotonic() >= deadline:
            raise AssertionError(f"not reached in {timeout} s: {what}")
        time.sleep(every)
