"""Disks that are full, slow, read-only, in use or without locks."""

import errno
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from steadydancer.catalog.catalog import Source
from steadydancer.loaders.download import transfer
from steadydancer.loaders.download.errors import DownloadError, NoRoom
from steadydancer.loaders.download.fetch import ensure, ensure_all
from steadydancer.loaders.download.transfer import Remote, Transfer
from support import TESTS
from support.downloads import AFTER, DATA, HASTY, RESUMED, TOY, disk, model_file, on_disk, toys, visible


def test_a_file_that_windows_holds_gets_a_sentence_and_is_not_fetched_twice(hub, models, monkeypatch):
    path = models.target(model_file())
    path.parent.mkdir(parents=True)
    path.write_bytes(DATA[:-1000])
    replace_file = os.replace

    def held(source, target):
        if str(target) == str(path):
            raise PermissionError(13, "The process cannot access the file", str(path))
        replace_file(source, target)

    monkeypatch.setattr(os, "replace", held)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with pytest.raises(DownloadError, match="is in use. Restart ComfyUI"):
        ensure(model_file(), models)
    monkeypatch.undo()
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.setattr(transfer, "CHUNK", 1 << 20)
    hub.sent = 0
    assert ensure(model_file(), models).read_bytes() == DATA
    assert hub.sent == 0


@pytest.mark.skipif(os.name == "nt", reason="folders have no such rights on Windows")
def test_a_folder_that_may_only_be_read_is_used(hub, models, monkeypatch):
    path = models.target(model_file())
    path.parent.mkdir(parents=True)
    path.write_bytes(DATA)
    file = model_file(sha256=hashlib.sha256(DATA).hexdigest())

    def refused(self, *args, **kwargs):
        raise PermissionError(30, "Read-only file system", str(self))

    monkeypatch.setattr(type(path), "write_text", refused)  # root may write anywhere, so rights alone prove nothing
    assert ensure(file, models) == path
    assert hub.requests == []


def test_no_room_is_said_before_a_byte(hub, models, monkeypatch):
    import shutil

    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**7, 9 * 10**6, 10**6))
    with pytest.raises(DownloadError, match=r"it needs 0.0 GB more, 0.0 GB are free in .*vae. Free some space"):
        ensure(model_file(), models)
    assert hub.sent == 0


def test_what_an_earlier_run_holds_needs_no_room(hub, models, monkeypatch):
    import shutil

    part = models.models_dir / "vae" / "toy.safetensors.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(len(DATA)))  # no holes
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**7, 9 * 10**6, 10**6))
    assert ensure(model_file(), models).read_bytes() == DATA


def test_a_lock_that_windows_holds_does_no_harm(hub, models, monkeypatch):
    unlink = Path.unlink

    def held(path, missing_ok=False):
        if path.suffix == ".lock":
            raise PermissionError(13, "The process cannot access the file", str(path))
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", held)
    assert ensure(model_file(), models).read_bytes() == DATA


DISKS = {
    "ENOSPC": "The disk is full while toy.safetensors is downloaded. What was fetched is kept",
    "EDQUOT": r"your share of it \(quota\) is used up. What was fetched is kept",
    "EFBIG": "toy.safetensors is larger than a file may be in .*vae",
    "EROFS": "vae is on a volume that can only be read",
    "EACCES": "ComfyUI's user may not write in .*vae",
    "EPERM": "ComfyUI's user may not write in .*vae",
    "EIO": r"the disk of .*vae failed \(Input/output error\)",
    "ESTALE": r"the disk of .*vae failed \(Stale file handle\)",
    "ETIMEDOUT": r"the disk of .*vae failed \(Connection timed out\)",
    "ECONNRESET": r"the disk of .*vae failed \(Connection reset by peer\)",
    "EMFILE": "too many files are open",
    "ENAMETOOLONG": "the volume of .*vae takes no file of that name",
    "EINVAL": "the volume of .*vae takes no file of that name",
}


@pytest.mark.skipif(os.name == "nt", reason="errors have other texts on Windows")
@pytest.mark.parametrize(
    ("where", "name"),
    [
        *((where, name) for where in ("folder", "part", "write") for name in DISKS),
        *((where, name) for where in ("flush", "place") for name in ("ENOSPC", "EDQUOT", "EIO")),
    ],
)
def test_what_a_disk_says_is_told_in_words(hub, models, monkeypatch, where, name):
    error = OSError(getattr(errno, name), os.strerror(getattr(errno, name)))

    def failing(*args, **kwargs):
        raise error

    if where == "folder":
        monkeypatch.setattr(Path, "mkdir", failing)
    elif where == "part":
        monkeypatch.setattr(Transfer, "run", failing)
    elif where == "write":
        monkeypatch.setattr(transfer, "write", lambda file, block, write=transfer.write: write(Failing(error), block))
    elif where == "flush":
        hub.total = 4e6  # so that there is time for it
        monkeypatch.setattr(os, "fsync", failing)
    else:
        monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(DownloadError, match=DISKS[name]):
        ensure(model_file(), models, retries=HASTY)
    assert visible(models) == []


class Failing:
    """A file on a disk that fails."""

    name = "models/vae/toy.safetensors.part"

    def __init__(self, error: OSError):
        self.error = error

    def write(self, block):
        raise self.error


VOLUME = """
import os, resource, sys
sys.path.insert(0, sys.argv[1])
from support.downloads import model_file
from steadydancer.loaders.download.fetch import ensure
if sys.argv[3] == "a limit of the file's size":
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
elif os.getuid() == 0:
    import requests, huggingface_hub.hf_api, steadydancer.loaders.download.hub  # nobody may read these then
    os.setgid(65534)
    os.setuid(65534)
try:
    ensure(model_file(), sys.argv[2])
except Exception as err:
    print(type(err).__name__, err)
"""


@pytest.mark.skipif(os.name == "nt", reason="users and limits of this kind are not on Windows")
@pytest.mark.parametrize(
    ("volume", "sentence"),
    {
        "a limit of the file's size": "toy.safetensors is larger than a file may be in",
        "a folder that may only be read": "ComfyUI's user may not write in",
        "a file in the folder's place": "is a file where a folder is needed",
    }.items(),
)
def test_real_volumes_that_refuse(hub, tmp_path, volume, sentence):
    models = Path(tempfile.mkdtemp(dir="/tmp"))  # nobody cannot look into pytest's folders
    models.chmod(0o755)
    vae = models / "vae"
    vae.write_bytes(b"") if "place" in volume else vae.mkdir(mode=0o555 if "read" in volume else 0o755)
    command = [sys.executable, "-c", VOLUME, str(TESTS), str(models), volume]
    variables = {**os.environ, "HF_TOKEN_PATH": str(models / "no-token")}
    said = subprocess.run(command, capture_output=True, text=True, timeout=60, env=variables)
    shutil.rmtree(models)
    assert said.stdout.startswith("DownloadError ") and sentence in said.stdout, said.stderr


@pytest.mark.parametrize("name", ["ENOLCK", "EOPNOTSUPP", "ENOSYS"])
def test_a_volume_without_locks(hub, models, monkeypatch, name):
    fcntl = pytest.importorskip("fcntl", reason="Windows has no such volumes")
    pytest.importorskip("steadydancer.base.lock", reason="the lock that goes on without one is not here yet")

    def refuse(*args):
        raise OSError(getattr(errno, name), os.strerror(getattr(errno, name)))

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert ensure(model_file(), models).read_bytes() == DATA
    assert on_disk(models) == [TOY]


@pytest.mark.parametrize(
    "known", [{"bytes": len(DATA)}, {"gb": 0.006}, {"gb": 0.0}], ids=["stated", "estimated", "unknown"]
)
def test_the_room_of_the_whole_job_is_seen_to_before_a_byte(hub, models, monkeypatch, known):
    files = toys(hub, 4, **known)
    ensure(files[3], models)
    hub.sent = 0
    monkeypatch.setattr(shutil, "disk_usage", disk(10**8, 2 * len(DATA) + 10**6))  # for two of the three
    with pytest.raises(NoRoom, match=r"for 3 files: it needs 0.0 GB more, 0.0 GB are free in .*vae.*left free"):
        ensure_all(files, models, retries=HASTY)
    assert hub.sent == 0 and on_disk(models) == ["3.safetensors"]
    monkeypatch.setattr(shutil, "disk_usage", disk(10**8, 3 * len(DATA) + 2 * 10**6 + 1))
    assert len(ensure_all(files, models, retries=HASTY)) == 4


def test_the_room_of_a_whole_snapshot_is_seen_to_before_a_byte(hub, models, monkeypatch):
    for name in ("a.bin", "deep/b.bin", "c.bin"):
        hub.put("owner/bundle", name, DATA)
    file = model_file(name="Bundle", format="folder", sources=(Source("snapshot", "owner/bundle"),))
    monkeypatch.setattr(shutil, "disk_usage", disk(10**8, 3 * len(DATA) + 10**6))
    with pytest.raises(NoRoom, match="Not enough disk space for Bundle: it needs"):
        ensure(file, models)
    assert hub.sent == 0
    monkeypatch.setattr(shutil, "disk_usage", disk(10**8, 3 * len(DATA) + 2 * 10**6))
    assert (ensure(file, models) / "deep" / "b.bin").read_bytes() == DATA


def test_an_estimate_alone_refuses_nothing(hub, models, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", disk(10**9, 10**8))
    assert len(ensure_all(toys(hub, 2, gb=50.0), models, retries=HASTY)) == 2


@pytest.mark.parametrize(
    ("total", "free", "fits"),
    [
        (10**8, len(DATA) + 2 * 10**6 - 1, False),
        (10**8, len(DATA) + 2 * 10**6, True),
        (10**12, len(DATA) + 10**9 - 1, False),
        (10**12, len(DATA) + 10**9, True),
        (0, 0, True),  # a network volume that tells no size
    ],
)
def test_a_part_of_the_disk_stays_free(hub, models, monkeypatch, total, free, fits):
    monkeypatch.setattr(shutil, "disk_usage", disk(total, free))
    if fits:
        assert ensure(model_file(), models).read_bytes() == DATA
        return
    with pytest.raises(NoRoom, match=f"{min(10**9, total // 50) / 1e9:.1f} GB are left free"):
        ensure(model_file(), models)
    assert hub.sent == 0 and on_disk(models) == []


def test_what_others_fill_meanwhile_is_noticed(hub, models, monkeypatch):
    hub.total = 4e6
    monkeypatch.setattr(
        shutil, "disk_usage", lambda path: disk(10**12, 2 * 10**9 if hub.sent < 3 * AFTER else 10**8)(path)
    )
    with pytest.raises(NoRoom, match="The disk is full while toy.safetensors is downloaded: only 0.1 GB are left"):
        ensure(model_file(), models)
    assert on_disk(models) == RESUMED
    monkeypatch.undo()
    monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
    monkeypatch.setattr(transfer, "CHUNK", 1 << 20)
    hub.total, before = 0.0, hub.sent
    assert ensure(model_file(), models).read_bytes() == DATA
    assert hub.sent - before < len(DATA)  # what was there was taken up


def test_a_file_that_shrinks_meanwhile_is_an_error(tmp_path):
    transfer = Transfer(Remote("", "toy.safetensors", 5), tmp_path / "toy.part", HASTY)
    transfer.part.write_bytes(b"123")
    transfer.filled = [5]
    hashing = threading.Thread(target=transfer.hash, daemon=True)
    hashing.start()
    hashing.join(2)
    transfer.stop.set()
    assert "was cut off on the disk" in str(transfer.error)
