"""ComfyUI starts with the package in it and has nothing to complain about."""

import json

from steadydancer.tools.comfyui import link_package
from support import warm

# ComfyUI's own loader on the package, with everything heard that is logged as a warning or worse, or warned of.
LOAD = """
import asyncio, json, logging, sys, warnings
comfyui, base, package = sys.argv[1:4]
sys.path.insert(0, comfyui)
from comfy.cli_args import args
args.cpu, args.base_directory = True, base
import nodes, server
loop = asyncio.new_event_loop()
server.PromptServer(loop)
before = set(nodes.NODE_CLASS_MAPPINGS)
heard = []
class Ear(logging.Handler):
    def emit(self, record):
        heard.append(record.getMessage())
logging.getLogger().addHandler(Ear(logging.WARNING))
logging.captureWarnings(True)
warnings.simplefilter("always")
loaded = loop.run_until_complete(nodes.load_custom_node(package))
found = set(nodes.NODE_CLASS_MAPPINGS) - before
for name in found:
    nodes.NODE_CLASS_MAPPINGS[name].INPUT_TYPES()
print(json.dumps({"loaded": loaded, "nodes": len(found), "heard": heard}))
"""


def test_package_is_loaded_without_a_warning(comfyui_path, tmp_path):
    package = link_package(tmp_path / "custom_nodes")
    done = warm.run(["-c", LOAD, comfyui_path, tmp_path, package], tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["heard"] == []
    assert result["loaded"] is True and result["nodes"] > 20


def test_the_server_has_it(comfy_server):
    log = comfy_server.log()
    assert "custom_nodes/steadydancer" in log.replace("\\", "/")
    assert "IMPORT FAILED" not in log
