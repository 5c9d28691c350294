"""The faults of saving to a bucket in one table: what happens × what the user reads × what disk and bucket hold then.

Each row is one file of the output folder, sent by `r2 upload` and by `r2 sync`: the same words, the same outcome.
"""

import errno
import importlib.util
import os
import re
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from steadydancer.base import lock
from steadydancer.bucket.client import Bucket
from steadydancer.bucket.journal import FILE, Journal
from steadydancer.bucket.profiles import Profile
from support import ROOT
from support.s3_server import Fault, StrictS3

OURS, OTHERS = b"the render", b"other data"  # of one size

spec = importlib.util.spec_from_file_location("steadydancer_cli", ROOT / "cli.py")
cli = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cli)


@dataclass
class World:
    s3: StrictS3
    comfyui: Path
    monkeypatch: pytest.MonkeyPatch
    name: str = "clip.png"
    variables: dict = field(default_factory=dict)

    @property
    def file(self) -> Path:
        return self.comfyui / "output" / self.name

    @property
    def journal(self) -> Path:
        return self.comfyui / "user" / "__steadydancer" / FILE

    @property
    def key(self) -> str:
        return f"{time.strftime('%Y-%m-%d', time.localtime(self.file.stat().st_mtime))}/{self.name}"

    def fault(self, action: str, operation: str) -> None:
        self.s3.faults.append(Fault(action, operation, 99))

    def refuse(self, function: str, code: int) -> None:
        def refused(*_):
            raise OSError(code, os.strerror(code))

        self.monkeypatch.setattr(function, refused)


@pytest.fixture
def world(s3, tmp_path, monkeypatch):
    import botocore.retries.standard as standard

    monkeypatch.setattr(standard.ExponentialBackoff, "delay_amount", lambda self, context: 0.02)
    for name in [name for name in os.environ if name.startswith(("R2_", "AWS_", "STEADYDANCER_"))]:
        monkeypatch.delenv(name)
    lock._tell.cache_clear()
    world = World(s3, tmp_path / "comfyui", monkeypatch)
    world.file.parent.mkdir(parents=True)
    world.file.write_bytes(OURS)
    os.utime(world.file, (time.time() - 60,) * 2)
    yield world
    lock._tell.cache_clear()


def taken(world, body=OTHERS):
    """Somebody else has the name, with other bytes of the same size."""
    profile = Profile(
        "other", ("renders",), world.s3.endpoint, access_key_id=world.s3.key_id, secret_access_key=world.s3.secret
    )
    Bucket(profile).client.put_object(Bucket="renders", Key=world.key, Body=body)


def killed(world, action):
    """An upload was under way when its process ended, and tidying it up is not possible."""
    world.journal.parent.mkdir(parents=True)
    address = f"127.0.0.1:{world.s3.port}/renders"
    Journal(world.journal).begin(world.file, world.file.stat(), address, world.key)
    world.fault(action, "ListMultipartUploads")


def rename(world, name: bytes):
    before, world.name = world.file, os.fsdecode(name)
    before.rename(world.file)


def spoil(path: Path):
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\0garbage\n{[")


def other_config(world):
    world.comfyui.joinpath("broken").write_text("[default]\nregion = x\n[broken\n")
    world.variables["AWS_CONFIG_FILE"] = str(world.comfyui / "broken")


def readable_profile(world):
    path = world.comfyui / "user" / "__steadydancer" / "r2.toml"
    path.parent.mkdir(parents=True)
    path.write_text("[work]\n")
    path.chmod(0o644)
    world.variables |= dict.fromkeys(world.s3.profile, "")


SENT, LEFT = [OURS], []
NO_RIGHT = "Give it Object Read & Write on this bucket"

# fault: (what happens, what the user reads, what the bucket holds); the file is on the disk in every row
FAULTS = {
    # the key and the address
    "token may not write": (lambda w: w.fault("403", "PutObject"), NO_RIGHT, LEFT),
    "token may not delete": (lambda w: setattr(w.s3, "may_delete", False), "", SENT),
    "token may not list uploads": (lambda w: killed(w, "403"), "", SENT),
    "temporary key expired": (lambda w: w.fault("expired", "PutObject"), "has expired. Get a new one", LEFT),
    "wrong secret": (lambda w: w.variables.update(R2_SECRET_ACCESS_KEY="x"), "Copy the secret again", LEFT),
    "unknown key": (lambda w: w.variables.update(R2_ACCESS_KEY_ID="x"), "Copy the key again", LEFT),
    "wrong bucket": (lambda w: w.variables.update(R2_BUCKET="none"), "there is no bucket 'none'", LEFT),
    "wrong clock": (lambda w: setattr(w.s3, "clock", 4000.0), "clock is wrong by 67 minutes", LEFT),
    "nobody there": (lambda w: w.variables.update(R2_ENDPOINT="http://127.0.0.1:9"), "Check the network", LEFT),
    "no scheme": (lambda w: w.variables.update(R2_ENDPOINT="host"), "must look like https://host", LEFT),
    "others read the keys": (readable_profile, "Run: chmod 600", LEFT),
    "not encrypted": (
        lambda w: w.variables.update(R2_ENDPOINT=w.s3.endpoint.replace("127.0.0.1", "127.1")),
        "begins with http://: what is sent can be read",
        SENT,
    ),
    # the service
    "connection breaks": (lambda w: w.fault("reset", "PutObject"), "retries did not help", LEFT),
    "server fails": (lambda w: w.fault("500", "PutObject"), "a problem of its own (status 500)", LEFT),
    "server is busy": (lambda w: w.fault("503", "PutObject"), "asked to slow down", LEFT),
    "answer lost": (lambda w: w.s3.faults.append(Fault("lost-reply", "PutObject")), "", SENT),
    "no conditions": (lambda w: setattr(w.s3, "conditions", "refused"), "", SENT),
    "conditions ignored": (lambda w: (setattr(w.s3, "conditions", "ignored"), taken(w)), "", [OTHERS, OURS]),
    "name taken": (taken, "clip-2.png", [OTHERS, OURS]),
    "name taken by the same bytes": (lambda w: taken(w, OURS), "", SENT),
    "ETag no MD5": (lambda w: (setattr(w.s3, "etags", "other"), taken(w)), "clip-2.png", [OTHERS, OURS]),
    "no list of uploads": (lambda w: killed(w, "501"), "", SENT),
    # this machine
    "no locks, ENOLCK": (lambda w: w.refuse("fcntl.flock", errno.ENOLCK), "cannot be locked on this volume", SENT),
    "no locks, EOPNOTSUPP": (lambda w: w.refuse("fcntl.flock", errno.EOPNOTSUPP), "The work goes on", SENT),
    "no locks, ENOSYS": (lambda w: w.refuse("fcntl.flock", errno.ENOSYS), "The work goes on", SENT),
    "journal cannot be written": (lambda w: w.journal.mkdir(parents=True), "Files are sent all the same", SENT),
    "journal damaged": (lambda w: spoil(w.journal), "", SENT),
    "name is no UTF-8": (lambda w: rename(w, b"a\xe9.png"), "", SENT),
    "name has line breaks": (lambda w: rename(w, b"a\nb\x1b[31m.png"), "", SENT),
    "variables of another job": (lambda w: w.variables.update(AWS_PROFILE="none", AWS_CA_BUNDLE="/none"), "", SENT),
    "files of another job": (other_config, "", SENT),
    "another process sends it": (lambda w: None, "sending it|being sent by", LEFT),
}


@pytest.mark.skipif(os.name != "posix", reason="names, locks and modes of this table are POSIX")
@pytest.mark.parametrize("door", ["upload", "sync"])
@pytest.mark.parametrize("fault", FAULTS)
def test_fault(world, capfd, caplog, fault, door):
    happens, reads, holds = FAULTS[fault]
    happens(world)
    for name, value in (world.s3.profile | world.variables).items():
        world.monkeypatch.setenv(name, value)
    what = world.file if door == "upload" else world.file.parent
    arguments = ["r2", door, str(what), "--comfyui", str(world.comfyui)]
    if fault == "another process sends it":
        with Journal(world.journal).claim(world.file):
            code = cli.main(arguments)
    else:
        code = cli.main(arguments)
    out, err = capfd.readouterr()
    told = out + err + caplog.text
    assert re.search(re.escape(reads) if "|" not in reads else reads, told), told
    assert code == (0 if OURS in holds else 1)
    assert world.file.read_bytes() == OURS
    assert sorted(world.s3.body(key) for key in world.s3.objects) == sorted(holds) and not world.s3.uploads
    assert "Errno" not in told and "Traceback" not in told and world.s3.secret not in told
    lines = out.splitlines()
    assert len(lines) == (1 if OURS in holds else 0) and all(line.isprintable() for line in lines)
