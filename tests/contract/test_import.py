"""Loading the package costs a running ComfyUI next to nothing: no time, no heavy library, no network."""

import json
import subprocess
import sys

from support import ROOT

HEAVY = {"boto3", "botocore", "huggingface_hub", "cv2", "triton", "gguf", "onnxruntime", "onnx"}

LOAD = """
import asyncio, json, runpy, socket, sys, time
from pathlib import Path
comfyui, base, cli = sys.argv[1:4]
sys.path.insert(0, comfyui)
from comfy.cli_args import args
args.cpu, args.base_directory = True, base
import nodes, server
loop = asyncio.new_event_loop()
server.PromptServer(loop)
before = set(sys.modules)
connections = []
def forbidden(self, *arguments):
    connections.append(repr(arguments))
    raise OSError("no network while loading")
for name in ("connect", "connect_ex", "bind"):
    setattr(socket.socket, name, forbidden)
socket.getaddrinfo = lambda *arguments, **options: forbidden(None, *arguments)
load_package = runpy.run_path(cli)["load_package"]
wall, cpu = time.perf_counter(), time.process_time()
package = load_package()
extension = loop.run_until_complete(package.comfy_entrypoint())
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
async def register():
    await extension.on_load()
    for node in await extension.get_node_list():
        node.GET_SCHEMA()
        node.INPUT_TYPES()
loop.run_until_complete(register())
print(json.dumps({"wall": wall, "cpu": cpu, "new": sorted(set(sys.modules) - before), "connections": connections}))
"""


def test_import_is_light(comfyui_path, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(comfyui_path), str(tmp_path), str(ROOT / "cli.py")],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert not result["connections"]
    assert not {name.partition(".")[0] for name in result["new"]} & HEAVY
    # Of the two clocks the one that a busy machine disturbs less decides.
    assert min(result["cpu"], result["wall"]) < 0.3, result
