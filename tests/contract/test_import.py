"""Loading the package costs a running ComfyUI next to nothing: few modules, few files, no heavy library, no network."""

import json
import os
import subprocess
import sys
from pathlib import Path

from support import ROOT

LIGHT = {"steadydancer", "tomli", *sys.stdlib_module_names}  # tomli is Python 3.10's tomllib

LOAD = """
import asyncio, json, runpy, socket, sys
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
opened, calls = [], 0
sys.addaudithook(lambda event, arguments: opened.append(str(arguments[0])) if event == "open" else None)
def count(frame, event, argument):
    global calls
    calls += event in ("call", "c_call")
sys.setprofile(count)
package = load_package()
extension = loop.run_until_complete(package.comfy_entrypoint())
sys.setprofile(None)
files = [file for file in opened if not file.endswith((".py", ".pyc"))]
async def register():
    await extension.on_load()
    for node in await extension.get_node_list():
        node.GET_SCHEMA()
        node.INPUT_TYPES()
loop.run_until_complete(register())
print(json.dumps({"files": files, "calls": calls, "new": sorted(set(sys.modules) - before), "connections": connections}))
"""


def test_import_is_light(comfyui_path, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", LOAD, str(comfyui_path), str(tmp_path), str(ROOT / "cli.py")],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},  # files that Python itself writes are not the package's
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert not result["connections"]
    assert {name.partition(".")[0] for name in result["new"]} <= LIGHT, "what ComfyUI has not loaded already"
    assert 20 < len(result["new"]) < 200
    assert [Path(file).name for file in result["files"]] == ["choose.toml"]
    assert result["calls"] < 1_000_000, "Python's and C's functions; 324,000 when this was written"
