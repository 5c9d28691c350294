"""The journal and the folder sync: everything once, nothing half-written, failures again and again."""

import os
import shutil
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest
from steadydancer.storage.journal import Journal
from steadydancer.storage.sync import Sync, media_files
from steadydancer.storage.upload import deliver
from support.s3_server import Fault, StrictS3


@pytest.fixture
def output(tmp_path):
    folder = tmp_path / "output"
    folder.mkdir()
    return folder


@pytest.fixture
def make(output):
    """make(name, content, age in seconds) → a file of the output folder, old enough to be finished."""

    def make(name: str, content: bytes = b"x", age: float = 60):
        path = output / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        os.utime(path, (time.time() - age,) * 2)
        return path

    return make


@pytest.fixture
def journal(tmp_path):
    return Journal(tmp_path / "user" / "journal.jsonl")


@pytest.fixture
def sync(output, bucket, journal):
    return Sync(output, bucket, journal)


def throw(error):
    raise error


@contextmanager
def running(sync):
    """The sync runs in a thread of its own until the block ends."""
    stop = threading.Event()
    thread = threading.Thread(target=sync.run, args=(stop,))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def wait_for(condition):
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)


def stored(s3) -> dict[str, bytes]:
    """Object name without the day → bytes."""
    return {key.partition("/")[2]: s3.body(key) for key in s3.objects}


def puts(s3) -> list[str]:
    return [key for operation, key in s3.requests if operation == "PutObject"]


def test_media_in_any_case_and_folder_and_nothing_else(s3, sync, make):
    for name in ("a.png", "B.PNG", "sub/c.Mp4", "sub/deep/d.webp", "e.flac", "f.gif", "g.WebM"):
        make(name, name.encode())
    for name in ("notes.txt", "model.safetensors", ".hidden.png", "x.png.part", ".git/z.png", "_output_images_here"):
        make(name)
    make("empty.png", b"")
    assert sync.round() == 7
    wanted = ("a.png", "B.PNG", "sub/c.Mp4", "sub/deep/d.webp", "e.flac", "f.gif", "g.WebM")
    assert stored(s3) == {name: name.encode() for name in wanted}


def test_each_version_is_sent_once_across_restarts(s3, sync, make, output, bucket, journal):
    make("a.png", b"one")
    assert (sync.round(), sync.round()) == (1, 0)
    assert Sync(output, bucket, Journal(journal.path)).round() == 0
    make("a.png", b"two", age=30)  # rendered again under the same name
    assert sync.round() == 1
    assert stored(s3) == {"a.png": b"one", "a-2.png": b"two"}


def test_another_endpoint_with_a_bucket_of_that_name_gets_it_too(s3, sync, make, output, journal, connect, tmp_path):
    make("a.png")
    with StrictS3(tmp_path / "second").running() as second:
        elsewhere = Sync(output, connect(endpoint=second.endpoint), journal)
        assert (sync.round(), elsewhere.round(), elsewhere.round()) == (1, 1, 0)
        assert stored(second) == stored(s3) == {"a.png": b"x"}


def test_a_file_is_left_until_it_is_finished(s3, sync, make, output):
    path = make("a.mp4", b"half", age=0)
    assert sync.round() == 0 and sync.waiting == 1
    os.utime(path, (time.time() - 60,) * 2)
    if sys.platform == "linux":
        with path.open("ab") as encoder:  # an encoder that pauses
            assert sync.round() == 0
            encoder.write(b" and whole")
        os.utime(path, (time.time() - 50,) * 2)
    assert sync.round() == 1
    assert stored(s3)["a.mp4"] == path.read_bytes()


def test_a_file_from_the_future_settles_too(s3, output, bucket, journal, make):
    sync = Sync(output, bucket, journal, settled=0.2)
    make("a.png", age=-3600)
    assert sync.round() == 0
    time.sleep(0.25)
    assert sync.round() == 1


def test_files_moved_in_are_seen(s3, sync, tmp_path, output, make):
    other = tmp_path / "elsewhere.png"
    other.write_bytes(b"moved")
    os.utime(other, (time.time() - 99,) * 2)
    sync.round()
    shutil.move(other, output / "moved.png")
    assert sync.round() == 1 and stored(s3) == {"moved.png": b"moved"}


def test_what_a_save_node_sent_is_not_sent_again(s3, sync, make, bucket, journal):
    path = make("a.png")
    deliver(bucket, path, "node/a.png", journal)
    assert sync.round() == 0 and puts(s3) == ["node/a.png"]


def test_what_a_save_node_is_sending_is_left_to_it(s3, sync, make, bucket, journal):
    path = make("a.png")
    with Journal(journal.path).claim(path) as ours:
        assert ours and sync.round() == 0
    assert not puts(s3) and sync.round() == 1


def test_what_a_killed_save_node_had_begun_keeps_its_key(s3, sync, make, bucket, journal):
    path = make("a.png")
    journal.begin(path, path.stat(), bucket.address, "node/a.png")
    assert sync.round() == 1 and list(s3.objects) == ["node/a.png"]


def test_a_claim_of_a_killed_process_is_free_again(journal, make, tmp_path):
    path = make("a.png")
    code = (
        "import importlib.util, os, sys, time; from pathlib import Path\n"
        "spec = importlib.util.spec_from_file_location('cli', sys.argv[1]); cli = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(cli); cli.load_package()\n"
        "from steadydancer.storage.journal import Journal\n"
        "with Journal(Path(sys.argv[2])).claim(Path(sys.argv[3])) as ours:\n"
        "    print(ours, flush=True); time.sleep(60)\n"
    )
    import steadydancer

    cli = os.path.join(os.path.dirname(steadydancer.__file__), "cli.py")
    command = [sys.executable, "-c", code, cli, str(journal.path), str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline().strip() == "True"
        with journal.claim(path) as ours:
            assert not ours
        process.kill()
    with journal.claim(path) as ours:
        assert ours


def test_a_line_cut_off_by_a_kill_costs_only_itself(s3, sync, make, journal, output, bucket):
    make("a.png")
    sync.round()
    with journal.path.open("ab") as file:
        file.write(b'{"path": "/x", "si')
    make("b.png")
    again = Sync(output, bucket, Journal(journal.path))
    assert again.round() == 1
    assert Sync(output, bucket, Journal(journal.path)).round() == 0


def test_failures_are_retried_with_backoff_and_shown(s3, sync, make, caplog, monkeypatch):
    for number in range(20):
        make(f"{number}.png")
    s3.faults.append(Fault("403", "PutObject", 20))
    assert sync.round() == 0
    assert len(caplog.records) == 1 and "20 file(s) wait" in caplog.text  # one cause, one line
    status = sync.status()
    assert status["waiting"] == 20 and len(status["failed"]) == 20
    assert {failure["tries"] for failure in status["failed"]} == {1}
    assert "Object Read & Write" in status["failed"][0]["reason"]
    assert sync.round() == 0 and len(puts(s3)) == 20  # not before its time
    later = time.monotonic() + 6
    monkeypatch.setattr("steadydancer.storage.sync.time.monotonic", lambda: later)
    assert sync.round() == 20
    assert sync.status()["failed"] == [] and len(stored(s3)) == 20


def test_a_deleted_file_is_not_mourned(s3, sync, make):
    s3.faults.append(Fault("403", "PutObject"))
    path = make("a.png")
    sync.round()
    path.unlink()
    sync.round()
    assert sync.status() == {"sent": 0, "waiting": 0, "sending": [], "failed": []}


def test_the_waiting_time_doubles_up_to_ten_minutes(s3, sync, make, monkeypatch):
    path, now, waits = make("a.png"), 0.0, []
    s3.faults.append(Fault("403", "PutObject", 999))
    monkeypatch.setattr("steadydancer.storage.sync.time.monotonic", lambda: now)
    for _ in range(10):
        sync.round()
        waits.append(sync.failures[path].again_at - now)
        now = sync.failures[path].again_at
    assert waits == [5, 10, 20, 40, 80, 160, 320, 600, 600, 600]


def test_run_ends_at_once_when_told(s3, sync, make):
    make("a.png")
    stop = threading.Event()
    thread = threading.Thread(target=sync.run, args=(stop,))
    thread.start()
    end = time.monotonic() + 10
    while not sync.sent and time.monotonic() < end:
        time.sleep(0.02)
    stop.set()
    thread.join(2)
    assert not thread.is_alive() and sync.sent == 1


def test_a_slow_upload_does_not_hold_up_new_files(s3, sync, make, monkeypatch):
    monkeypatch.setattr("steadydancer.storage.sync.INTERVAL", 0.05)
    s3.faults.append(Fault("stall", "PutObject"))
    make("slow.mp4", b"x" * 100)
    with running(sync):
        wait_for(lambda: puts(s3))
        make("a.png")
        wait_for(lambda: sync.sent == 1)
        assert sync.status()["sending"] == ["slow.mp4"]
    assert len(puts(s3)) == 2  # the slow one was not sent a second time meanwhile


def test_a_surprise_is_a_failure_of_that_file_only(s3, sync, make, monkeypatch, caplog):
    make("a.png")
    make("b.png")
    key = sync.key
    surprise = RuntimeError("surprise")
    monkeypatch.setattr(sync, "key", lambda path, stat: throw(surprise) if path.name == "a.png" else key(path, stat))
    assert sync.round() == 1 and stored(s3) == {"b.png": b"x"}
    assert [failure["file"] for failure in sync.status()["failed"]] == ["a.png"] and "surprise" in caplog.text


def test_no_failure_ends_it(s3, sync, make, monkeypatch, caplog):
    """Also one that nobody thought of."""
    monkeypatch.setattr("steadydancer.storage.sync.INTERVAL", 0.05)
    whole, broken = sync._is_settled, [RuntimeError("surprise"), OSError("no disk")]
    monkeypatch.setattr(sync, "_is_settled", lambda *file: whole(*file) if not broken else throw(broken.pop()))
    make("a.png")
    with running(sync):
        wait_for(lambda: sync.sent == 1)
    assert caplog.text.count("It tries again") == 2 and "surprise" in caplog.text


def test_status_holds_no_secret_and_no_path(s3, sync, make, output):
    make("sub/a.png")
    s3.faults.append(Fault("403", "PutObject", 9))
    sync.round()
    make("b.png")
    sync.journal.begin = lambda path, *more: throw(OSError(28, "No space left on device", str(path)))
    sync.round()
    text = str(sync.status())
    assert "No space left" in text and "Object Read & Write" in text
    assert s3.secret not in text and s3.key_id not in text and str(output) not in text and s3.endpoint not in text


def test_linked_folders_are_not_followed(output, make, tmp_path):
    make("a.png")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "private.png").write_bytes(b"x")
    (output / "link").symlink_to(outside, target_is_directory=True)
    (output / "loop").symlink_to(output, target_is_directory=True)
    assert [path.name for path, _ in media_files(output)] == ["a.png"]
