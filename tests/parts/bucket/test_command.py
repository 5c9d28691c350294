"""`cli.py r2` as an operator runs it: a process of its own, its exit code and its two streams."""

import os
import re
import signal
import subprocess
import sys
import time
from urllib.parse import urlsplit

import pytest
from steadydancer.bucket.client import MIB
from steadydancer.bucket.journal import Journal
from support import ROOT
from support.s3_server import Fault


@pytest.fixture
def r2(s3, tmp_path):
    """r2(*arguments, **variables) → the finished process, with the env profile pointing at the strict server."""
    (tmp_path / "comfyui" / "output").mkdir(parents=True)
    (tmp_path / "comfyui" / "user").mkdir()
    home = {name: value for name, value in os.environ.items() if not name.startswith(("R2_", "AWS_", "STEADYDANCER_"))}

    def run(*arguments, start=subprocess.run, **variables):
        command = [sys.executable, str(ROOT / "cli.py"), "r2", *map(str, arguments)]
        environment = home | s3.profile | {"HOME": str(tmp_path)} | variables
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "encoding": "utf-8"}
        return start(command, env=environment, **pipes)

    return run


def old_file(path, content=b"x"):
    path.write_bytes(content)
    os.utime(path, (time.time() - 60,) * 2)
    return path


def test_test_walks_through_every_right(r2, s3):
    done = r2("test")
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^(\w+) +ok, \d+ ms$", done.stdout, re.M) == ["write", "read", "list", "delete"]
    assert not s3.objects and s3.secret not in done.stdout + done.stderr
    assert "conditions kept" in done.stdout and "ETags    MD5" in done.stdout and "parts    possible" in done.stdout


@pytest.mark.parametrize(
    "switches, told",
    [
        ({"conditions": "refused"}, "conditions refused"),
        ({"conditions": "ignored"}, "conditions ignored"),
        ({"etags": "other"}, "ETags    of another kind: uploads are read back"),
        ({"etags": "none"}, "ETags    of another kind: uploads are read back"),
    ],
)
def test_test_says_what_the_service_can_do_and_keeps_it(r2, s3, tmp_path, switches, told):
    for name, value in switches.items():
        setattr(s3, name, value)
    comfyui = tmp_path / "comfyui"
    done = r2("test", "--comfyui", comfyui)
    assert done.returncode == 0 and told in done.stdout and not s3.objects, done.stderr
    journal = (comfyui / "user" / "__steadydancer" / "r2_journal.jsonl").read_text()
    assert f'"keeps_conditions": {str("conditions" not in switches).lower()}' in journal


def test_test_with_a_token_that_may_not_delete(r2, s3):
    s3.may_delete = False
    for _ in range(2):
        done = r2("test", R2_SESSION_TOKEN="")
        assert done.returncode == 0, done.stderr
        assert re.findall(r"^(\w+) +ok, \d+ ms$", done.stdout, re.M) == ["write", "read", "list"]
        assert "delete   not possible, and not needed" in done.stdout and "steadydancer-test.json" in done.stdout
        assert list(s3.objects) == ["steadydancer-test.json"]  # one, however often


def test_test_stays_below_the_prefix_and_lists_the_profiles(r2, s3, tmp_path):
    config = tmp_path / "mine.toml"
    keys = f'access_key_id = "{s3.key_id}"\nsecret_access_key = "{s3.secret}"\n'
    table = f'endpoint = "{s3.endpoint}"\nbuckets = ["renders", "drafts"]\nprefix = "pod 1"\n{keys}'
    config.write_text(f"[work]\n{table}[home]\n{table}")
    config.chmod(0o600)
    done = r2("test", "--profile", "work", "--config", config)
    assert done.returncode == 0 and set(s3.writes) == {"pod 1/steadydancer-test.json"}
    assert "profiles auto, env, work, work:drafts, home, home:drafts" in done.stdout


def test_an_endpoint_without_encryption_is_said_to_be_one(r2, s3):
    there = {"R2_ENDPOINT": s3.endpoint.replace("127.0.0.1", "127.0.0.2")}  # not the usual address of this machine
    done = r2("test", **there)
    assert ", not encrypted" in done.stdout and done.stderr.count("can be read and changed on the way") == 1
    assert "encrypted" not in r2("test").stdout


@pytest.mark.parametrize(
    "foreign",
    [
        {"AWS_PROFILE": "work"},
        {"AWS_CONFIG_FILE": "BROKEN", "AWS_SHARED_CREDENTIALS_FILE": "BROKEN"},
        {"AWS_CA_BUNDLE": "/nonexistent.pem", "REQUESTS_CA_BUNDLE": "/nonexistent.pem"},
        {"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9", "AWS_RETRY_MODE": "nonsense"},
        {"http_proxy": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9"},
        {"http_proxy": "socks5://127.0.0.1:9", "ALL_PROXY": "socks5://127.0.0.1:9"},
    ],
    ids=lambda foreign: "+".join(foreign),
)
def test_what_other_jobs_left_in_the_environment_breaks_nothing(r2, tmp_path, foreign):
    (tmp_path / "broken").write_text("[default]\nregion = us-east-1\n[broken\n")
    done = r2(
        "test", **{name: str(tmp_path / "broken") if value == "BROKEN" else value for name, value in foreign.items()}
    )
    assert done.returncode == 0, done.stderr


def test_a_test_that_fails_half_way_leaves_nothing(r2, s3):
    s3.faults.append(Fault("403", "GetObject", 9))
    done = r2("test")
    assert done.returncode == 1 and "Object Read & Write" in done.stderr
    assert s3.writes and not s3.objects


def test_a_wrong_secret_is_exit_code_1_and_a_sentence(r2):
    done = r2("test", R2_SECRET_ACCESS_KEY="CANARY")
    assert done.returncode == 1
    assert "secret access key" in done.stderr and "Traceback" not in done.stderr and "CANARY" not in done.stderr


def test_without_a_profile_it_says_what_to_set(r2):
    done = r2("test", R2_ENDPOINT="", R2_BUCKET="", R2_ACCESS_KEY_ID="", R2_SECRET_ACCESS_KEY="")
    assert done.returncode == 1 and "Set R2_ENDPOINT" in done.stderr


def test_upload_ends_with_the_key(r2, s3, tmp_path):
    first, second = old_file(tmp_path / "a.mp4", b"one"), old_file(tmp_path / "b é.mp4", b"two")
    done = r2("upload", first, second, "--prefix", "pod")
    assert done.returncode == 0, done.stderr
    key = done.stdout.splitlines()[-1]
    assert re.fullmatch(r"pod/\d{4}-\d\d-\d\d/b é\.mp4", key) and s3.body(key) == b"two"


def test_upload_of_a_missing_file_sends_nothing(r2, s3, tmp_path):
    done = r2("upload", old_file(tmp_path / "a.mp4"), tmp_path / "none.mp4")
    assert done.returncode == 1 and "There is no file" in done.stderr and not s3.objects


def test_sync_sends_the_rest_once_and_shares_the_journal_with_upload(r2, s3, tmp_path):
    comfyui = tmp_path / "comfyui"
    old_file(comfyui / "output" / "a.png")
    old_file(comfyui / "output" / "b.png")
    assert r2("upload", comfyui / "output" / "a.png", "--comfyui", comfyui).returncode == 0
    done = r2("sync", "--comfyui", comfyui)
    assert done.returncode == 0 and "1 sent, 0 left" in done.stderr and done.stdout.startswith("b.png → ")
    again = r2("sync", comfyui / "output")
    assert again.returncode == 0 and "0 sent, 0 left" in again.stderr
    assert len(s3.objects) == 2


def test_sync_right_after_a_render_waits_for_the_newest_file(r2, s3, tmp_path):
    output = tmp_path / "comfyui" / "output"
    old_file(output / "a.png")
    old_file(output / "empty.png", b"")
    os.utime(old_file(output / "new.png"), (time.time() + 600,) * 2)  # a clock that is ahead
    done = r2("sync", output)
    assert "2 sent, 1 left" in done.stderr and "still being written" in done.stderr
    assert done.returncode == 1 and "empty.png: It is empty." in done.stderr
    (output / "empty.png").unlink()
    (output / "newer.png").write_bytes(b"x")
    done = r2("sync", output)
    assert done.returncode == 0 and "1 sent, 0 left" in done.stderr and len(s3.objects) == 3


@pytest.mark.skipif(sys.platform != "linux", reason="the system takes fewer names")
def test_odd_names_and_what_is_no_file_end_no_sync(r2, s3, tmp_path):
    output = tmp_path / "comfyui" / "output"
    old_file(output / "good.png")
    old_file(output / os.fsdecode(b"no utf8 \xe9.png"), b"1")
    old_file(output / "line\nbreak.png", b"2")
    (output / "passwd.png").symlink_to("/etc/passwd")
    os.mkfifo(output / "pipe.mp4")
    done = r2("sync", output, LC_ALL="C", PYTHONIOENCODING="ascii")
    assert done.returncode == 1 and "3 sent, 2 left" in done.stderr and "Traceback" not in done.stderr
    assert (
        "passwd.png: It is a link that leads out" in done.stderr and "pipe.mp4: It is no file but a pipe" in done.stderr
    )
    assert len(done.stdout.splitlines()) == 3 and len(s3.objects) == 3
    done = r2("upload", output / os.fsdecode(b"no utf8 \xe9.png"), output / "line\nbreak.png")
    assert done.returncode == 0 and len(done.stdout.splitlines()) == 2, done.stderr


@pytest.mark.parametrize("name", ["none.png", "n" * 300, "line\nbreak.png", os.fsdecode(b"\xe9.png")])
def test_a_name_that_is_no_file_is_a_sentence(r2, name):
    for arguments in (["upload", name], ["sync", name], ["test", "--config", name]):
        done = r2(*arguments)
        assert done.returncode == 1 and "Errno" not in done.stderr and "Traceback" not in done.stderr
        assert len(done.stderr.splitlines()) == 1 and done.stderr.rstrip("\n").isprintable(), done.stderr


def test_sync_that_leaves_something_behind_is_exit_code_1(r2, tmp_path):
    old_file(tmp_path / "comfyui" / "output" / "a.png")
    done = r2("sync", tmp_path / "comfyui" / "output", R2_SECRET_ACCESS_KEY="wrong")
    assert done.returncode == 1 and "0 sent, 1 left" in done.stderr and "secret access key" in done.stderr


def test_ls(r2, tmp_path):
    r2("upload", old_file(tmp_path / "a.mp4", b"x" * 2_500_000))
    lines = r2("ls").stdout.splitlines()
    assert len(lines) == 1 and re.search(r"2\.5 MB  \d{4}-\d\d-\d\d/a\.mp4$", lines[0])
    assert r2("ls", "--prefix", "nothing").stdout == ""


def test_a_profile_of_a_config_file(r2, s3, tmp_path):
    config = tmp_path / "mine.toml"
    config.write_text(
        f'[work]\nendpoint = "{s3.endpoint}"\nbucket = "renders"\naccess_key_id = "{s3.key_id}"\n'
        f'secret_access_key = "{s3.secret}"\n'
    )
    config.chmod(0o600)
    assert r2("ls", "--profile", "work", "--config", config).returncode == 0
    assert r2("ls", "--profile", "work", STEADYDANCER_R2_CONFIG=str(config)).returncode == 0
    assert "no save profile 'work'" in r2("ls", "--profile", "work").stderr
    assert "There is no file" in r2("ls", "--config", tmp_path / "none.toml").stderr


def test_what_version_0_1_left_is_taken_over(r2, s3, tmp_path):
    """Profiles in a folder of their own in the home folder, and a journal inside the folder that was sent."""
    folder, config = tmp_path / "renders", tmp_path / ".config"
    (config / "__steadydancer").mkdir(parents=True)
    profile = config / "__steadydancer" / "r2.toml"
    profile.write_text(
        f'[work]\nendpoint = "{s3.endpoint}"\nbucket = "renders"\naccess_key_id = "{s3.key_id}"\n'
        f'secret_access_key = "{s3.secret}"\n'
    )
    profile.chmod(0o600)
    folder.mkdir()
    sent, old = old_file(folder / "sent.png"), Journal(folder / ".steadydancer" / "r2_journal.jsonl")
    address = f"{urlsplit(s3.endpoint).netloc}/renders"
    old.finish(sent, sent.stat(), address, "day/sent.png")
    old.finish(tmp_path / "elsewhere.png", sent.stat(), address, "day/elsewhere.png")
    old.note_service(address, False)
    new = old_file(folder / "new.png")
    for expected in ("1 sent, 0 left", "0 sent, 0 left"):
        done = r2("sync", folder, "--profile", "work", R2_ENDPOINT="", R2_BUCKET="", R2_ACCESS_KEY_ID="")
        assert done.returncode == 0 and expected in done.stderr, done.stderr
    assert [key.rpartition("/")[2] for key in s3.objects] == ["new.png"], "what the journal knew is not sent again"
    assert not old.path.exists() and not profile.exists()
    assert (config / "steadydancer" / "r2.toml").stat().st_mode & 0o777 == 0o600
    journal = Journal(config / "steadydancer" / "r2_journal.jsonl")
    assert journal.find(sent, sent.stat(), address).sent and journal.find(new, new.stat(), address).sent
    assert journal.find(tmp_path / "elsewhere.png", sent.stat(), address) is None, "a folder speaks for its own files"
    assert journal.keeps_conditions(address) is None


@pytest.mark.skipif(os.name != "posix", reason="Ctrl-C cannot be sent to one process")
@pytest.mark.parametrize("action", ["upload", "sync"])
def test_ctrl_c_stops_at_once_and_leaves_nothing_half(r2, s3, tmp_path, action):
    path = tmp_path / "comfyui" / "output" / "big.mp4"
    with path.open("wb") as file:
        file.truncate(400 * MIB)
    os.utime(path, (time.time() - 60,) * 2)
    s3.bytes_per_second = 1e6  # minutes for what is in flight
    process = r2(action, path if action == "upload" else path.parent, start=subprocess.Popen)
    wait_for(lambda: ("UploadPart", next(iter(s3.uploads.values()), {}).get("key")) in s3.requests)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "Stopped." in errors and "Traceback" not in errors
    wait_for(lambda: not s3.uploads)
    assert not s3.objects


SERVER = """
import importlib.util, sys, threading, time
from pathlib import Path
spec = importlib.util.spec_from_file_location("cli", sys.argv[1])
cli = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cli)
cli.load_package()
from steadydancer.bucket import client, journal, profiles, sync
folder = Path(sys.argv[2])
watch = sync.Sync(folder / "output", client.Bucket(profiles.find("env", folder)), journal.Journal(folder / "j.jsonl"))
threading.Thread(target=watch.run, args=(threading.Event(),), daemon=True).start()
sys.stdin.readline()
"""


def test_a_server_that_ends_does_not_wait_for_its_uploads(r2, s3, tmp_path):
    """Python waits for the threads of the transfer library when it exits."""
    path = tmp_path / "comfyui" / "output" / "big.mp4"
    with path.open("wb") as file:
        file.truncate(400 * MIB)
    os.utime(path, (time.time() - 60,) * 2)
    s3.bytes_per_second = 1e6  # minutes for what is in flight

    def start(command, **options):
        command = [command[0], "-c", SERVER, str(ROOT / "cli.py"), str(tmp_path / "comfyui")]
        return subprocess.Popen(command, stdin=subprocess.PIPE, **options)

    process = r2(start=start)
    wait_for(lambda: s3.uploads and any(operation == "UploadPart" for operation, _ in s3.requests))
    process.communicate("end\n", timeout=60)
    wait_for(lambda: not s3.uploads)


def wait_for(condition):
    end = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.05)
