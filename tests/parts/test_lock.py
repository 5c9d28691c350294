"""The one lock of the package: six processes never hold it at once, and a volume without locks stops nobody."""

import errno
import os
import subprocess
import sys
import threading
import time

import pytest
from steadydancer.base import lock
from steadydancer.base.lock import locked
from support import ROOT

PROCESSES, TURNS = 6, 60

# Each turn: the lock, then a counter in a file is read, held for a moment and written back. Lost turns are two holders.
WORKER = """
import importlib.util, os, sys, time
from pathlib import Path
spec = importlib.util.spec_from_file_location("cli", sys.argv[1])
cli = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cli)
cli.load_package()
folder, counter = Path(sys.argv[2]), Path(sys.argv[2], "counter")
from steadydancer.bucket.journal import Journal
from steadydancer.base.lock import locked
journal = Journal(folder / "journal.jsonl")
hold = {
    "lock": lambda: locked(folder / "x.lock"),
    "journal": lambda: journal.claim(folder / "clip.mp4", wait=600),
}[sys.argv[3]]
print("ready", flush=True)
sys.stdin.readline()
for _ in range(int(sys.argv[4])):
    with hold():
        os.mkdir(folder / "inside")  # an error when another is inside
        counter.write_text(str(int(counter.read_text()) + 1))
        os.rmdir(folder / "inside")
"""


@pytest.mark.parametrize("which", ["lock", "journal"])
def test_six_processes_never_hold_it_at_once(tmp_path, which, monkeypatch):
    (tmp_path / "counter").write_text("0")
    command = [sys.executable, "-c", WORKER, str(ROOT / "cli.py"), str(tmp_path), which, str(TURNS)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    workers = [subprocess.Popen(command, **pipes) for _ in range(PROCESSES)]
    for worker in workers:
        assert worker.stdout.readline() == "ready\n"
    for worker in workers:
        worker.stdin.write("go\n")
        worker.stdin.flush()
    errors = [worker.communicate(timeout=120)[1] for worker in workers]
    assert [error for error in errors if error] == []
    assert (tmp_path / "counter").read_text() == str(PROCESSES * TURNS)


def test_threads_exclude_each_other_and_a_wait_ends(tmp_path):
    path = tmp_path / "deep" / "x.lock"
    seen, inside = [], threading.Event()

    def other():
        with locked(path, wait=0) as ours:
            seen.append(ours)
        inside.set()

    with locked(path) as ours:
        assert ours
        threading.Thread(target=other).start()
        assert inside.wait(5)
    other()
    assert seen == [False, True]
    assert path.exists(), "a lock file that is removed locks nothing"


def test_what_meanwhile_raises_ends_the_wait(tmp_path):
    def press():
        raise KeyboardInterrupt

    with locked(tmp_path / "x.lock"), pytest.raises(KeyboardInterrupt):
        with locked(tmp_path / "x.lock", meanwhile=press):
            pass
    with locked(tmp_path / "x.lock", wait=0) as ours:
        assert ours


def test_an_error_inside_frees_it(tmp_path):
    with pytest.raises(OSError, match="of the work"), locked(tmp_path / "x.lock"):
        raise OSError(errno.ENOLCK, "of the work")
    with locked(tmp_path / "x.lock", wait=0) as ours:
        assert ours


@pytest.fixture
def told():
    """What is told once is told anew in each test."""
    lock._tell.cache_clear()
    yield
    lock._tell.cache_clear()


@pytest.mark.skipif(os.name != "posix", reason="the system has no flock")
@pytest.mark.parametrize("code", ["ENOLCK", "EOPNOTSUPP", "ENOSYS", "EPERM", "EIO", "ESTALE"])
def test_a_volume_without_locks_stops_nobody_and_says_so_once(tmp_path, code, monkeypatch, caplog, told):
    def refuse(*_):
        raise OSError(getattr(errno, code), os.strerror(getattr(errno, code)))

    monkeypatch.setattr("fcntl.flock", refuse)
    for name in ("a.lock", "b.lock"):
        with locked(tmp_path / name) as ours:
            assert ours
            with locked(tmp_path / name, wait=0) as again:
                assert not again, "between threads it still locks"
    assert len(caplog.records) == 1 and "The work goes on" in caplog.text


def in_the_way(tmp_path):
    (tmp_path / "claims").write_text("a file where the folder should be")
    return tmp_path / "claims" / "x.lock"


def a_folder(tmp_path):
    (tmp_path / "x.lock").mkdir()
    return tmp_path / "x.lock"


def a_long_name(tmp_path):
    return tmp_path / ("x" * 300)


@pytest.mark.parametrize("make", [in_the_way, a_folder, a_long_name])
def test_a_lock_file_that_cannot_be_made_stops_nobody(tmp_path, make, caplog, told):
    with locked(make(tmp_path)) as ours:
        assert ours
    assert len(caplog.records) == 1


def test_a_busy_lock_is_polled(tmp_path):
    polls, path = [], tmp_path / "x.lock"
    with locked(path):
        with locked(path, wait=0.5, meanwhile=lambda: polls.append(time.monotonic())) as ours:
            assert not ours
    assert polls
