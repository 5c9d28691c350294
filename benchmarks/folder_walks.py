"""What a press of Run costs in a large model folder: walks and time of the nodes that say auto, before anything is executed.

    python benchmarks/folder_walks.py --comfyui PATH [--files 2000] [--package ANOTHER_CHECKOUT]

`first` is the first prompt after a start, `again` the next ones; `schema` is what /object_info makes of the four nodes that
list files. With --package another checkout is measured, such as an older one.
"""

import argparse
import asyncio
import os
import runpy
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NODES = ("SteadyDancerLoader", "SteadyDancerCatalogLoader", "SteadyDancerTurboLoader", "SteadyDancerVRAMPlanner")
USUAL = {
    "variant": "auto", "width": 832, "height": 480, "frames": 81, "steps": 0, "guidance": "usual", "step_distill": False,
    "lora": "none", "gpu": "RTX 4060", "reserve": 0.0,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--comfyui", required=True, help="ComfyUI's folder")
    parser.add_argument("--files", type=int, default=2000)
    parser.add_argument("--package", type=Path, default=ROOT)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as base:
        folder = Path(base, "models", "diffusion_models", "collection")
        folder.mkdir(parents=True)
        for number in range(args.files):
            (folder / f"another-model-{number:05}.safetensors").touch()
        time.sleep(0.1)
        measure(args, base)


def measure(args, base: str) -> None:
    sys.path[:] = [args.comfyui, *(entry for entry in sys.path if Path(entry or ".").resolve() != ROOT / "benchmarks")]
    sys.argv[1:] = []
    from comfy.cli_args import args as comfyui

    comfyui.cpu, comfyui.base_directory = True, base
    from server import PromptServer

    import nodes  # noqa: F401 - ComfyUI's, before ours

    runpy.run_path(str(args.package / "cli.py"))["load_package"]()
    import steadydancer

    async def load():
        PromptServer(asyncio.get_running_loop())
        extension = await steadydancer.comfy_entrypoint()
        await extension.on_load()
        return {node.GET_SCHEMA().node_id: node for node in await extension.get_node_list()}

    ours = asyncio.run(load())
    walk, walks = os.walk, []

    def counted(top, *more, **options):
        walks.append(top)
        return walk(top, *more, **options)

    os.walk = counted

    def row(name, call):
        walks.clear()
        start = time.perf_counter()
        call()
        print(f"{name:<34} {len(walks):>5} walks {1000 * (time.perf_counter() - start):>9.1f} ms")

    print(f"{args.files} files in diffusion_models, {args.package.name}")
    for when in ("first", "again"):
        row(f"loader, auto, {when}", lambda: ours["SteadyDancerLoader"].fingerprint_inputs("auto", False))
        row(f"planner, auto, {when}", lambda: ours["SteadyDancerVRAMPlanner"].fingerprint_inputs(**USUAL))
    row("schema of four nodes", lambda: [ours[name].INPUT_TYPES() for name in NODES])


if __name__ == "__main__":
    main()
