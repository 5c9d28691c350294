"""Cancelled, killed, quit and done twice at once: nothing is lost, and nothing is fetched twice."""

import collections
import itertools
import json
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from steadydancer.base.cancel import Cancelled
from steadydancer.catalog.catalog import Source
from steadydancer.loaders.download import transfer
from steadydancer.loaders.download.errors import DownloadError
from steadydancer.loaders.download.fetch import ensure, ensure_all
from steadydancer.loaders.download.places import Places
from steadydancer.loaders.download.transfer import Remote, Transfer
from support import TESTS
from support.downloads import (
    DATA,
    ENDLESS,
    HASTY,
    model_file,
    safetensors,
    visible,
)
from support.hub import Fault
from support.work import returns


def test_cancel_and_resume(hub, models):
    hub.rate = 0.5e6
    arrived = []
    with pytest.raises(Cancelled):
        ensure(model_file(), models, lambda done, total: arrived.append(done), lambda: arrived[-1:] > [500_000])
    assert visible(models) == []
    kept = json.loads(next(models.models_dir.rglob("*.part.json")).read_text())["done"]
    assert 500_000 < kept < len(DATA)
    time.sleep(1.2)  # the server notices that nobody listens
    hub.rate, hub.sent = 0.0, 0
    assert ensure(model_file(), models).read_bytes() == DATA
    assert hub.sent == len(DATA) - kept


def test_a_stopped_connection_leaves_the_next_ones_file_alone(hub, tmp_path):
    remote = Remote(f"{hub.cdn}/blob/owner/toy/sub/toy.safetensors", "toy.safetensors", len(DATA), ranges=False)
    late = Transfer(remote, tmp_path / "toy.part", HASTY)
    ask = late.ask

    def stopped_meanwhile(session, index):
        response = ask(session, index)
        late.stop.set()
        return response

    late.ask = stopped_meanwhile
    late.part.write_bytes(b"the next prompt's")
    late.fetch(collections.deque([0]))
    assert late.part.read_bytes() == b"the next prompt's"


def test_cancel_while_every_connection_is_silent(hub, models, monkeypatch):
    monkeypatch.setattr(transfer, "CHUNK", 1 << 18)  # eight connections have work
    hub.faults["toy.safetensors"] = Fault(stall=3600)
    with pytest.raises(Cancelled):
        returns(ensure, model_file(), models, cancelled=lambda: len(hub.asked("cdn")) == 8, retries=ENDLESS)
    assert hub.sent == 0


def test_cancel_while_the_hub_is_silent(models, monkeypatch):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        polls = itertools.count()
        with pytest.raises(Cancelled):
            returns(ensure, model_file(), models, cancelled=lambda: next(polls) > 2, retries=ENDLESS)


CHILD = """
import sys
sys.path.insert(0, sys.argv[1])
from support.downloads import model_file
from steadydancer.loaders.download import transfer
from steadydancer.loaders.download.fetch import ensure
transfer.CHUNK = 1 << 20
ensure(model_file(), sys.argv[2], lambda done, total: print(done, flush=True))
print("finished", flush=True)
"""


QUIT = """
import sys, threading
sys.path.insert(0, sys.argv[1])
from support.downloads import model_file
from steadydancer.loaders.download.fetch import ensure_all
from steadydancer.loaders.download.places import Places
begun = threading.Event()
work = [model_file()], Places(sys.argv[2]), lambda done, total: done and begun.set()
threading.Thread(target=ensure_all, args=work, kwargs={"jobs": int(sys.argv[3])}, daemon=True).start()
begun.wait(20)
print("quits", flush=True)
"""


@pytest.mark.parametrize("jobs", [1, 2])
def test_quitting_does_not_wait_for_the_download(hub, models, jobs):
    hub.rate = 0.1e6  # 10 s for the whole
    command = [sys.executable, "-c", QUIT, str(TESTS), str(models.models_dir), str(jobs)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert process.stdout.readline() == "quits\n"
        process.wait(3)
        assert 0 < hub.sent < len(DATA)
    finally:
        process.kill()


def child(models: Places) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(TESTS), str(models.models_dir)],
        stdout=subprocess.PIPE,
        text=True,
    )


def test_killed_at_60_percent_fetches_only_the_rest(hub, models):
    hub.rate = 0.5e6  # eight connections: 1.2 s for the whole
    process = child(models)
    for line in process.stdout:
        if int(line) > 0.6 * len(DATA):
            break
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert visible(models) == []
    kept = json.loads(next(models.models_dir.rglob("*.part.json")).read_text())["done"]
    assert kept > 0.5 * len(DATA)
    time.sleep(1.2)  # the server notices that nobody listens
    hub.rate, hub.sent = 0.0, 0
    assert ensure(model_file(), models).read_bytes() == DATA
    assert hub.sent == len(DATA) - kept


def test_two_processes_and_two_threads_make_one_transfer(hub, models):
    hub.rate = 1e6
    processes = [child(models), child(models)]
    with ThreadPoolExecutor() as pool:
        tasks = [pool.submit(ensure, model_file(), models) for _ in range(2)]
        for task in tasks:
            assert task.result().read_bytes() == DATA
    for process in processes:
        assert process.communicate(timeout=30)[0].strip().endswith("finished")
    assert hub.sent == len(DATA)


def test_several_files_share_one_progress(hub, models):
    for i in range(3):
        hub.put("owner/toy", f"{i}.safetensors", safetensors(300_000, seed=i))
    files = [
        model_file(id=str(i), name=f"{i}.safetensors", sources=(Source("hub", "owner/toy", path=f"{i}.safetensors"),))
        for i in range(3)
    ]
    seen = []
    paths = ensure_all(files, models, lambda done, total: seen.append((done, total)), jobs=3)
    assert [path.name for path in paths] == ["0.safetensors", "1.safetensors", "2.safetensors"]
    size = len(safetensors(300_000))
    assert seen[-1] == (3 * size, 3 * size)
    hub.faults["1.safetensors"] = Fault(gated=True)
    paths[1].unlink()
    with pytest.raises(DownloadError, match="licence must be accepted"):
        ensure_all(files, models, jobs=3)


def test_progress_leaves_out_what_is_here(hub, models):
    for i in range(2):
        hub.put("owner/toy", f"{i}.safetensors", safetensors(300_000, seed=i))
    files = [
        model_file(id=str(i), name=f"{i}.safetensors", sources=(Source("hub", "owner/toy", path=f"{i}.safetensors"),))
        for i in range(2)
    ]
    ensure(files[1], models)
    seen = []
    ensure_all(files, models, lambda done, total: seen.append((done, total)))
    size = len(safetensors(300_000))
    assert seen[-1] == (size, size)
