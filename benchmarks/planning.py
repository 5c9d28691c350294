"""How long planning takes: the command from nothing, and a plan in a process that has planned before.

    python benchmarks/planning.py

Needs neither ComfyUI nor a GPU.
"""

import runpy
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
JOBS = (
    ("fp8, fits", "steadydancer/fp8", "RTX 4090", 832, 480, 81),
    ("fp8, blocks in RAM", "steadydancer/fp8", "RTX 4060", 832, 480, 81),
    ("fp8, does not fit", "steadydancer/fp8", "RTX 4060", 1920, 1088, 161),
    ("auto, blocks in RAM", "auto", "RTX 4060", 832, 480, 81),
    ("auto, does not fit", "auto", "RTX 4060", 1920, 1088, 401),
)


def seconds(call) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def main() -> None:
    command = [sys.executable, str(ROOT / "cli.py"), "plan", "--gpu", "RTX 4090"]
    cold = [seconds(lambda: subprocess.run(command, check=True, stdout=subprocess.DEVNULL)) for _ in range(5)]
    print(f"{'cli.py plan, a new process':<28} {1000 * statistics.median(cold):>8.1f} ms")
    runpy.run_path(str(ROOT / "cli.py"))["load_package"]()
    from steadydancer.machine import gpus
    from steadydancer.planning.job import job_for
    from steadydancer.planning.planner import plan_job

    for name, variant, gpu, width, height, frames in JOBS:
        job, card = job_for(variant, width, height, frames), gpus.card(gpu)
        plan_job(job, card)
        warm = statistics.median(seconds(lambda: plan_job(job, card)) for _ in range(21))  # noqa: B023
        print(f"{name:<28} {1000 * warm:>8.1f} ms")


if __name__ == "__main__":
    main()
