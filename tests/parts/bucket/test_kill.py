"""A sync that is killed fifty times at random points loses nothing and repeats nothing."""

import os
import random
import subprocess
import sys
import time

import pytest
from steadydancer.bucket.client import MIB
from steadydancer.bucket.journal import Journal
from support import ROOT, TESTS

KILLS = 50

# Starts with the libraries loaded and forks a sync for every line it reads, so that fifty kills take seconds.
WORKER = """
import importlib.util, os, signal, sys, time
from pathlib import Path
spec = importlib.util.spec_from_file_location("cli", sys.argv[1])
cli = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cli)
cli.load_package()
import boto3, s3transfer.manager
from steadydancer.bucket import client, profiles
from steadydancer.bucket.journal import Journal
from steadydancer.bucket.sync import Sync
client.SINGLE_PUT, client.PART = 10 * client.MIB, 5 * client.MIB
folder, journal = Path(sys.argv[2]), Path(sys.argv[3])
bucket = client.Bucket(profiles.find("env", Path("none")))
bucket.client  # made before the fork, which has no thread or connection yet
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        while True:
            Sync(folder, bucket, Journal(journal)).round()
            time.sleep(0.01)
    time.sleep(float(line))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    print("killed", flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
def test_fifty_kills(s3, bucket, tmp_path, monkeypatch):
    rng = random.Random(20260102)
    output, journal = tmp_path / "output", tmp_path / "user" / "journal.jsonl"
    (output / "video").mkdir(parents=True)
    made = {}

    def make(number: int) -> None:
        large = number % 10 == 0  # above the limit for one PUT
        path = output / ("video" if large else "") / f"{number:04}.{'mp4' if large else 'png'}"
        path.write_bytes(os.urandom(12 * MIB if large else rng.randrange(1, 200_000)))
        os.utime(path, (time.time() - 60,) * 2)
        made[path] = path.read_bytes()

    environment = os.environ | s3.profile
    command = [sys.executable, "-c", WORKER, str(ROOT / "cli.py"), str(output), str(journal)]
    s3.bytes_per_second = 100e6
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=TESTS
    ) as worker:
        for number in range(KILLS):
            for more in range(2):
                make(2 * number + more)
            worker.stdin.write(f"{rng.uniform(0.02, 0.5)}\n")
            worker.stdin.flush()
            assert worker.stdout.readline() == "killed\n"
        unfinished = sum(path.exists() for path in made) - len(s3.objects)
        s3.bytes_per_second = 0
        worker.stdin.write("6\n")
        worker.stdin.close()
        assert worker.stdout.readline() == "killed\n"
    print(f"\n{len(made)} files, {KILLS} kills, {unfinished} unfinished at the last, {len(s3.writes)} objects written")
    assert sorted(s3.writes) == sorted(set(s3.writes)), "something was stored twice"
    stored = {key.partition("/")[2]: s3.body(key) for key in s3.objects}
    assert stored == {path.relative_to(output).as_posix(): data for path, data in made.items()}
    assert not s3.uploads, "a killed multipart upload was left behind"
    known = Journal(journal)
    assert all(known.find(path, path.stat(), bucket.address).sent for path in made)
