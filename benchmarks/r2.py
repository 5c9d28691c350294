#!/usr/bin/env python3
"""Uploads measured: speed against `aws s3 cp`, memory for a large file, and many small files.

    python benchmarks/r2.py [--rate MB/s] [--runs N]

Everything goes to the strict S3 server of the tests, in a process of its own, over loopback and at a fixed rate.
Every number is of a whole process, its start included. Needs boto3, and awscli for the comparison.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MB, GB = 10**6, 10**9
CLI = [sys.executable, str(ROOT / "cli.py"), "r2"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=25.0, help="the server's MB/s (default: %(default)s)")
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = [
            *throughput(Path(folder), args.rate * MB, args.runs),
            memory(Path(folder)),
            small_files(Path(folder)),
        ]
    print(f"\n{'what':42} {'measured':>16}  {'wanted':>8}")
    for what, measured, wanted in rows:
        print(f"{what:42} {measured:>16}  {wanted:>8}")


def throughput(folder: Path, rate: float, runs: int) -> list[tuple[str, str, str]]:
    """Our upload and aws s3 cp in turn, the same file to the same server."""
    path = sparse_file(folder / "video.mp4", GB)
    aws = shutil.which("aws")
    ours, theirs = [], []
    with server(folder / "speed", "--rate", str(rate), "--discard") as environment:
        for run in range(runs):
            ours.append(measure([*CLI, "upload", str(path), "--key", f"ours-{run}.mp4"], environment)[0])
            if aws:
                target = [f"s3://renders/theirs-{run}.mp4", "--endpoint-url", environment["R2_ENDPOINT"]]
                theirs.append(measure([aws, "s3", "cp", "--only-show-errors", str(path), *target], environment)[0])
    speed = GB / statistics.median(ours) / MB
    rows = [(f"cli.py r2 upload, 1 GB, link {rate / MB:.0f} MB/s", f"{speed:.1f} MB/s", "")]
    if theirs:
        other = GB / statistics.median(theirs) / MB
        rows += [("aws s3 cp, the same", f"{other:.1f} MB/s", ""), ("ratio", f"{speed / other:.3f}", "≥ 0.95")]
    return rows


def memory(folder: Path) -> tuple[str, str, str]:
    path = sparse_file(folder / "long.mp4", 2 * GB)
    with server(folder / "memory", "--discard") as environment:
        wall, peak = measure([*CLI, "upload", str(path)], environment)
    return f"peak memory, 2 GB in {wall:.0f} s", f"{peak / MB:.0f} MB", "≤ 200 MB"


def small_files(folder: Path, count: int = 1000, size: int = 100_000) -> tuple[str, str, str]:
    output = folder / "output"
    output.mkdir()
    for number in range(count):
        path = output / f"{number:04}.png"
        path.write_bytes(os.urandom(size))
        os.utime(path, (time.time() - 60,) * 2)
    with server(folder / "small") as environment:
        wall, _ = measure([*CLI, "sync", str(output)], environment)
    return f"cli.py r2 sync, {count} files of {size // 1000} KB", f"{count / wall:.0f} files/s", "≥ 50"


@contextmanager
def server(folder: Path, *options: str):
    """The strict S3 server in its own process; yields the environment that points both clients at it."""
    command = [sys.executable, str(ROOT / "tests" / "support" / "s3_server.py"), str(folder), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        profile = json.loads(process.stdout.readline())
        yield {
            **os.environ,
            **profile,
            "AWS_ACCESS_KEY_ID": profile["R2_ACCESS_KEY_ID"],
            "AWS_SECRET_ACCESS_KEY": profile["R2_SECRET_ACCESS_KEY"],
            "AWS_DEFAULT_REGION": "auto",
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        }
        process.kill()


def measure(command: list[str], environment: dict[str, str]) -> tuple[float, int]:
    """Wall time of a process in seconds, and its peak memory in bytes."""
    started = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - started
    if status:
        raise SystemExit(f"{' '.join(command[:4])} failed")
    return wall, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def sparse_file(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


if __name__ == "__main__":
    main()
