"""How long the header of a GGUF file takes: ours beside gguf-py, for 1,345 tensors and with three tokenizer arrays.

python benchmarks/gguf_header.py [--entries 256384]
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import gguf
import support  # noqa: F401  (loads the package)
from steadydancer.formats.gguf_file import open_gguf
from support.gguf_writer import write_gguf


def milliseconds(work, runs: int) -> float:
    best = float("inf")
    for _ in range(runs):
        start = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - start)
    return best * 1e3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=256_384)
    count = parser.parse_args().entries
    tensors = {f"blocks.{i}.weight": ("F32", (8,), bytes(32)) for i in range(1345)}
    arrays = {
        "tokenizer.ggml.tokens": [f"piece{i}" for i in range(count)],
        "tokenizer.ggml.scores": [0.5] * count,
        "tokenizer.ggml.token_type": [1] * count,
    }
    with tempfile.TemporaryDirectory() as folder:
        print(f"{'file':<34} {'ours, ms':>10} {'gguf-py, ms':>12}")
        for name, metadata in (("1345 tensors", {}), (f"and three arrays of {count:,}", arrays)):
            path = write_gguf(Path(folder) / f"{len(metadata)}.gguf", tensors, metadata)
            ours, theirs = milliseconds(lambda: open_gguf(path), 5), milliseconds(lambda: gguf.GGUFReader(path), 1)  # noqa: B023
            print(f"{name:<34} {ours:>10.1f} {theirs:>12.1f}")


if __name__ == "__main__":
    main()
