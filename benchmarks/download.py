"""Downloads a file from a server limited to 50 MB/s a connection and 300 MB/s in all: curl, `hf download`, ours.

    python benchmarks/download.py [--gb 2] [--rate 50] [--total 300] [--folder DIR]

Prints seconds, MB/s, CPU seconds a GB and memory. Ours checks sha256 while it downloads; curl checks nothing and
`hf download` checks the size.
"""

import argparse
import importlib.util
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REPO, NAME = "bench/model", "model.safetensors"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=2.0)
    parser.add_argument("--rate", type=float, default=50.0, help="MB/s a connection")
    parser.add_argument("--total", type=float, default=300.0, help="MB/s in all")
    parser.add_argument("--folder", type=Path, help="where the files go; needs three times --gb")
    parser.add_argument("--ours", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.ours:
        return download_ours(*args.ours)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        compare(Path(folder), args)


def compare(folder: Path, args) -> None:
    size = make_file(folder / "hub" / REPO / NAME, round(args.gb * 1e9))
    server = subprocess.Popen(
        [sys.executable, ROOT / "tests/support/hub.py", folder / "hub", f"--rate={args.rate}", f"--total={args.total}"],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        endpoint = server.stdout.readline().split()[0]
        url = f"{endpoint}/{REPO}/resolve/main/{NAME}"
        subprocess.run(["curl", "-sIL", url], check=True, stdout=subprocess.DEVNULL)  # the server hashes its file now
        os.environ.update(HF_ENDPOINT=endpoint, HF_HUB_DISABLE_XET="1", HF_HUB_DISABLE_PROGRESS_BARS="1")
        tools = {
            "curl": ["curl", "-sLo", folder / "curl.out", url],
            "hf download": [hf(), "download", REPO, NAME, "--local-dir", folder / "hf"],
            "ours": [sys.executable, __file__, "--ours", folder / "ours", url],
        }
        print(f"{size / 1e9:.2f} GB, {args.rate:.0f} MB/s a connection, {args.total:.0f} MB/s in all")
        print(f"{'':<12} {'s':>7} {'MB/s':>7} {'CPU s/GB':>9} {'MB above start':>15}")
        seconds = {}
        for name, command in tools.items():
            seconds[name], cpu, output = timed(list(map(str, command)))
            above = output.split()[-1] if name == "ours" else ""
            row = f"{seconds[name]:>7.1f} {size / 1e6 / seconds[name]:>7.0f} {cpu / size * 1e9:>9.2f} {above:>15}"
            print(f"{name:<12} {row}", flush=True)
        for name in ("curl", "hf download"):
            print(f"ours is {seconds[name] / seconds['ours']:.1f} times as fast as {name}")
    finally:
        server.kill()


def make_file(path: Path, size: int) -> int:
    """A safetensors file of one tensor; what is in it does not compress."""
    path.parent.mkdir(parents=True)
    header = b'{"w":{"dtype":"U8","shape":[%d],"data_offsets":[0,%d]}}' % (size, size)
    block = os.urandom(1 << 24)
    with open(path, "wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for start in range(0, size, len(block)):
            file.write(block[: size - start])
    return path.stat().st_size


def timed(command: list[str]) -> tuple[float, float, str]:
    """Wall seconds, CPU seconds and output of a command."""
    begun, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.monotonic() - begun, cpu, output


def hf() -> str:
    return shutil.which("hf") or str(Path(sys.executable).with_name("hf"))


def download_ours(folder: str, url: str) -> None:
    """Fetches by our downloader and prints how far memory rose above what the imports took, in MB."""
    spec = importlib.util.spec_from_file_location("steadydancer_cli", ROOT / "cli.py")
    cli = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(cli)
    cli.load_package()
    import huggingface_hub  # noqa: F401
    import requests  # noqa: F401
    from steadydancer.catalog.catalog import ModelFile, Source
    from steadydancer.loaders.download.fetch import ensure

    source = Source("hub", REPO, path=NAME)
    file = ModelFile("bench", "bench", "vae", "vae", NAME, "safetensors", "-", "-", (source,), None, "", 0.0, False)
    start = resident()
    peak = start

    def progress(done, total):
        nonlocal peak
        peak = max(peak, resident())

    ensure(file, folder, progress)
    print(f"{(peak - start) / 1e6:.0f}")


def resident() -> int:
    """Bytes of this process in memory now."""
    pages = Path("/proc/self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


if __name__ == "__main__":
    main()
