"""How long ComfyUI waits for this package at its start, and how much is imported then; the median of several new processes.

    python dev.py run -- python benchmarks/import.py [--repeats 5]

Needs no GPU. The test beside it, tests/contract/test_import.py, counts modules, files and calls instead.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOAD = """
import asyncio, json, runpy, sys, time
comfyui, base, cli = sys.argv[1:4]
sys.path.insert(0, comfyui)
from comfy.cli_args import args
args.cpu, args.base_directory = True, base
import nodes, server
loop = asyncio.new_event_loop()
server.PromptServer(loop)
before = len(sys.modules)
wall, cpu = time.perf_counter(), time.process_time()
package = runpy.run_path(cli)["load_package"]()
extension = loop.run_until_complete(package.comfy_entrypoint())
loop.run_until_complete(extension.get_node_list())
row = {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu, "modules": len(sys.modules) - before}
print(json.dumps(row))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    rows = []
    for _ in range(parser.parse_args().repeats):
        with tempfile.TemporaryDirectory() as base:
            command = [sys.executable, "-c", LOAD, os.environ["COMFYUI_PATH"], base, str(ROOT / "cli.py")]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            rows.append(json.loads(done.stdout.splitlines()[-1]))
    for name in ("wall", "cpu"):
        print(f"{name:<8} {1000 * statistics.median(row[name] for row in rows):>6.0f} ms")
    print(f"{'modules':<8} {rows[0]['modules']:>6}")


if __name__ == "__main__":
    main()
