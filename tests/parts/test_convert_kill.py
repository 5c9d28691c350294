"""A conversion that is killed at random points leaves no half file under the name, and the next run ends right."""

import os
import random
import subprocess
import sys
import time

import pytest
from steadydancer.formats.model_file import damage
from support import ROOT, TESTS, tiny

KILLS = 20

# Starts with the libraries loaded and forks a conversion for every line it reads, killed after that many seconds.
WORKER = """
import importlib.util, os, signal, sys, time
from pathlib import Path
spec = importlib.util.spec_from_file_location("cli", sys.argv[1])
cli = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cli)
cli.load_package()
import torch
from steadydancer.convert.source import open_source
from steadydancer.convert.write import convert
source, target = open_source(Path(sys.argv[2])), Path(sys.argv[3])
print("ready", flush=True)
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        torch.set_num_threads(1)
        convert(source, target, "int8_convrot", lambda *_: None, lambda: False)
        os._exit(0)
    end = time.monotonic() + float(line)
    while time.monotonic() < end and not (done := os.waitpid(child, os.WNOHANG)[0]):
        time.sleep(0.001)
    if not done:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    print("done" if done else "killed", flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system cannot fork")
def test_twenty_kills(tmp_path):
    source = tiny.write_steadydancer(tmp_path / "dancer_fp32.safetensors", "fp32")
    target, part = tmp_path / "x.safetensors", tmp_path / "x.safetensors.part"
    rng, whole, halves = random.Random(20261130), None, 0
    command = [sys.executable, "-c", WORKER, str(ROOT / "cli.py"), str(source), str(target)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=TESTS) as worker:

        def run(seconds: float) -> str:
            worker.stdin.write(f"{seconds}\n")
            worker.stdin.flush()
            return worker.stdout.readline().strip()

        assert worker.stdout.readline() == "ready\n"
        start = time.monotonic()
        assert run(300) == "done"
        took, whole = time.monotonic() - start, target.read_bytes()
        killed = 0
        while killed < KILLS:
            target.unlink(missing_ok=True)
            if run(rng.uniform(0, took)) == "done":  # it was faster than the first time
                continue
            killed += 1
            halves += part.exists()
            assert not target.exists() or target.read_bytes() == whole
            if killed % 5 == 0:
                target.unlink(missing_ok=True)
                assert run(300) == "done", "over what the killed one has left"
                assert target.read_bytes() == whole and not part.exists() and not damage(target)
        worker.stdin.close()
    print(f"\n{KILLS} kills within {took:.2f} s, {halves} left a part")
    assert halves >= KILLS // 4, "most of the time is spent writing"
