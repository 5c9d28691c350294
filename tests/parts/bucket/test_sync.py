"""The journal and the folder sync: everything once, nothing half-written, failures again and again."""

import errno
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest
from steadydancer.base import lock
from steadydancer.bucket.journal import Journal
from steadydancer.bucket.sync import Sync, media_files
from steadydancer.bucket.upload import deliver
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
        "from steadydancer.bucket.journal import Journal\n"
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
    monkeypatch.setattr("steadydancer.bucket.sync.time.monotonic", lambda: later)
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
    monkeypatch.setattr("steadydancer.bucket.sync.time.monotonic", lambda: now)
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
    monkeypatch.setattr("steadydancer.bucket.sync.INTERVAL", 0.05)
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
    monkeypatch.setattr("steadydancer.bucket.sync.INTERVAL", 0.05)
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


def reasons(sync) -> dict[str, str]:
    return {item["file"]: item["reason"] for item in sync.status()["failed"]}


def test_only_files_of_the_folder_are_taken_and_the_rest_is_named(s3, sync, make, output, tmp_path, caplog):
    make("good.png", b"good")
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"private")
    (output / "out.png").symlink_to(secret)
    (output / "passwd.png").symlink_to("/etc/passwd")
    (output / "nowhere.mp4").symlink_to(tmp_path / "none.mp4")
    (output / "loop.mp4").symlink_to(output / "loop.mp4")
    (output / "inside.png").symlink_to(make("sub/real.png", b"real"))
    (output / "folder.mp4").mkdir()
    make("folder.mp4/frame.png", b"frame")
    make("empty.png", b"")
    os.mkfifo(output / "pipe.mp4")
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(output / "s.wav"))
    assert sync.round() == 4
    assert sorted(stored(s3).values()) == [b"frame", b"good", b"real", b"real"]
    told = reasons(sync)
    assert {name: reason.split(".")[0] for name, reason in told.items()} == {
        "out.png": "It is a link that leads out of this folder",
        "passwd.png": "It is a link that leads out of this folder",
        "nowhere.mp4": "It is a link that leads nowhere",
        "loop.mp4": "It is a link that leads nowhere",
        "folder.mp4": "It is no file but a folder",
        "empty.png": "It is empty",
        "pipe.mp4": "It is no file but a pipe",
        "s.wav": "It is no file but a socket",
    }
    assert all(name in caplog.text for name in told)
    lines = len(caplog.records)
    assert sync.round() == 0 and len(caplog.records) == lines, "each is logged once"
    assert sync.unfinished == 0, "nothing of this is waited for"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="another user is needed")
def test_what_may_not_be_read_is_named(s3, make, output, tmp_path):
    make("good.png")
    make("closed/inside.png")
    make("mine.png")
    code = (
        "import importlib.util, json, os, sys; from pathlib import Path\n"
        "spec = importlib.util.spec_from_file_location('cli', sys.argv[1]); cli = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(cli); cli.load_package()\n"
        "from steadydancer.bucket import client, profiles, sync, upload\n"
        "from steadydancer.bucket.journal import Journal\n"
        "bucket = client.Bucket(profiles.find('env', Path('none')))\n"
        "upload.upload(bucket, Path(sys.argv[2], 'good.png'), 'warm.png')  # what is loaded late is in root's folder\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "look = sync.Sync(Path(sys.argv[2]), bucket, Journal(Path(sys.argv[3])))\n"
        "print(json.dumps([look.round(), look.status()]))\n"
    )
    for folder in (output, *output.parents[:4]):
        folder.chmod(0o755)
    (output / "closed").chmod(0o700)
    (output / "mine.png").chmod(0o600)
    import json

    import steadydancer

    cli = os.path.join(os.path.dirname(steadydancer.__file__), "cli.py")
    command = [sys.executable, "-c", code, cli, str(output), str(tmp_path / "user" / "j.jsonl")]
    done = subprocess.run(command, env=os.environ | s3.profile, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    sent, status = json.loads(done.stdout)
    told = {item["file"]: item["reason"] for item in status["failed"]}
    assert sent == 1 and told.keys() == {"closed", "mine.png"}
    assert "could not be read: Permission denied" in told["closed"] and "may not be read" in told["mine.png"]


ODD_NAMES = [
    b"not utf8 \xe9.png",
    b"line\nbreak.png",
    b"bell\x07\x1b[31m.png",
    "half \ud800.png".encode("utf-8", "surrogatepass"),
    b"x" * 250 + b".png",
    "舞".encode() * 80 + b".png",
    b"con.png",
    "right\u202eto left.png".encode(),
    "two\u2028lines.png".encode(),
    b" .png",
    b"'\"<>|?*%s{}.png",
    b"-rf.png",
    "never\uffff.png".encode(),
]


@pytest.mark.skipif(sys.platform != "linux", reason="the system takes fewer names")
@pytest.mark.parametrize("fault", [None, "403"])
def test_no_name_ends_the_sync_for_the_others(s3, sync, output, make, fault, caplog):
    for number in range(5):
        make(f"good_{number}.png")
    for number, name in enumerate(ODD_NAMES):
        path = os.path.join(os.fsencode(output), name)
        with open(path, "wb") as file:
            file.write(b"%d" % number)
        os.utime(path, (time.time() - 60,) * 2)
    if fault:
        s3.faults.append(Fault(fault, "PutObject", 999))
        assert sync.round() == 0 and len(sync.status()["failed"]) == 5 + len(ODD_NAMES)
        shown = "".join(item["file"] for item in sync.status()["failed"])
        assert shown.isprintable() and caplog.text.replace("\n", "").isprintable()
        shown.encode(), caplog.text.encode()
    else:
        assert sync.round() == 5 + len(ODD_NAMES)
        assert all(key.isprintable() and len(key.encode()) < 300 for key in s3.objects)
        assert len(list(sync.bucket.list())) == 5 + len(ODD_NAMES)


def test_what_claim_raises_is_that_files_failure(s3, sync, make, monkeypatch, caplog):
    make("a.png")
    make("b.png")
    whole = sync.journal.claim
    error = UnicodeEncodeError("utf-8", "\udce9", 0, 1, "surrogates not allowed")
    monkeypatch.setattr(sync.journal, "claim", lambda path: throw(error) if path.name == "a.png" else whole(path))
    assert sync.round() == 1 and list(reasons(sync)) == ["a.png"] and "a.png" in caplog.text


@pytest.mark.parametrize("code", ["ENOLCK", "EOPNOTSUPP", "ENOSYS", "EPERM"])
def test_a_volume_without_locks_sends_everything(s3, sync, make, monkeypatch, caplog, code):
    def refuse(*_):
        raise OSError(getattr(errno, code), os.strerror(getattr(errno, code)))

    lock._tell.cache_clear()
    monkeypatch.setattr("fcntl.flock", refuse)
    for number in range(20):
        make(f"{number}.png", b"%d" % number)
    assert sync.round() == 20 and len(stored(s3)) == 20
    assert [record.levelname for record in caplog.records] == ["WARNING"] and "The work goes on" in caplog.text


def test_what_another_sends_or_writes_is_named_and_logged_when_it_lasts(s3, sync, make, monkeypatch, caplog):
    path = make("sent.png")
    make("written.png", age=-5)
    with Journal(sync.journal.path).claim(path):
        sync.round()
        assert reasons(sync) == {
            "sent.png": "Another ComfyUI or command is sending it.",
            "written.png": "It is still being written.",
        }
        assert not caplog.records
    assert sync.round() == 1 and list(reasons(sync)) == ["written.png"]
    later = time.monotonic() + 61
    monkeypatch.setattr(sync, "_is_settled", lambda *file: False)
    monkeypatch.setattr("steadydancer.bucket.sync.time.monotonic", lambda: later)
    sync.round()
    assert "written.png. It is still being written" in caplog.text


def test_one_cause_is_one_line_whatever_the_days_and_folders(s3, sync, make, caplog):
    for number in range(6):
        make(f"{number}/clip.png", age=60 + 86400 * number)
    s3.faults.append(Fault("403", "HeadObject", 999))
    assert sync.round() == 0 and len(caplog.records) == 1
    assert "0/clip.png, " in caplog.text and "and 1 more" in caplog.text


def test_times_that_no_calendar_has(s3, sync, make):
    os.utime(make("old.png"), (-(10**11), -(10**11)))
    assert sync.round() == 1


def test_linked_folders_are_not_followed(output, make, tmp_path):
    make("a.png")
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "private.png").write_bytes(b"x")
    (output / "link").symlink_to(outside, target_is_directory=True)
    (output / "loop").symlink_to(output, target_is_directory=True)
    assert [path.name for path, _ in media_files(output)] == ["a.png"]
