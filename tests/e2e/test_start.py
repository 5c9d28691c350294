"""What must not stop ComfyUI or take our nodes away: other copies, folders that cannot be written, no web server."""

import ctypes
import json
import os
import shutil
import subprocess
import sys

import pytest
from support import ROOT, warm
from support.server import Server

LOAD = """
import asyncio, json, sys
comfyui, base, server_kind, change, *folders = sys.argv[1:]
sys.path.insert(0, comfyui)
from comfy.cli_args import args
args.cpu, args.base_directory, args.disable_api_nodes = True, base, True
import nodes
instance = None
if server_kind != "none":
    import server
if server_kind == "real":
    instance = server.PromptServer(asyncio.new_event_loop())
if server_kind == "stub":
    instance = server.PromptServer.instance = object()
exec(change)
async def load():
    return [await nodes.load_custom_node(folder, module_parent="custom_nodes") for folder in folders]
loaded = asyncio.run(load())
import comfy.supported_models
if server_kind == "real":
    instance.add_routes()
ours = {name: node for name, node in nodes.NODE_CLASS_MAPPINGS.items() if name.startswith("SteadyDancer")}
models = [model.__module__ for model in comfy.supported_models.models if model.__name__ == "SteadyDancer"]
print(json.dumps({"loaded": loaded, "nodes": len(ours), "from": sorted({node.__module__.partition(".")[0] for node in ours.values()}), "models": models}))
"""
ALL = sum(file.read_text("utf-8").count('node_id="SteadyDancer') for file in (ROOT / "nodes").glob("*.py"))


def load(comfyui_path, base, *folders, server="real", change="", prepare=None):
    """Loads packages one after the other with ComfyUI's own loader. Returns what came of it, and the log."""
    program = ["-c", LOAD, str(comfyui_path), str(base), server, change, *map(str, folders)]
    if prepare:
        done = subprocess.run(
            [sys.executable, *program], capture_output=True, text=True, timeout=300, preexec_fn=prepare
        )
    else:
        done = warm.run(program, base)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr + done.stdout


def link(folder):
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.symlink_to(ROOT, target_is_directory=True)
    return folder


def copy(folder):
    ignored = shutil.ignore_patterns("tests", "benchmarks", ".git", "docs", "example_workflows", "__pycache__")
    return shutil.copytree(ROOT, folder, ignore=ignored)


def without_override():
    """Makes file permissions bind root too."""
    for capability in (1, 2):  # DAC_OVERRIDE, DAC_READ_SEARCH
        ctypes.CDLL(None).prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP


def warnings(log: str) -> list[str]:
    return [line for line in log.splitlines() if "SteadyDancer" in line and "seconds:" not in line]


def test_other_copies_step_aside(comfyui_path, tmp_path):
    """Two links to one folder, which are two copies to ComfyUI, and a copy of another name."""
    folders = [link(tmp_path / "custom_nodes" / name) for name in ("steadydancer", "ComfyUI-SteadyDancer@nightly")]
    folders.append(copy(tmp_path / "custom_nodes" / "steadydancer.bak of May"))
    found, log = load(comfyui_path, tmp_path, *folders)
    assert found["nodes"] == ALL and len(found["models"]) == 1 and all(found["loaded"])
    told = [line for line in warnings(log) if "installed twice" in line]
    assert len(told) == len(folders) - 1
    for line, second in zip(told, folders[1:]):
        assert f"{folders[0]} is used and {second} is not" in line


def test_a_damaged_copy_leaves_the_place_to_a_whole_one(comfyui_path, tmp_path):
    damaged, whole = copy(tmp_path / "custom_nodes" / "old"), link(tmp_path / "custom_nodes" / "steadydancer")
    (damaged / "nodes" / "turbo_sampling.py").write_text("raise RuntimeError('half an update')")
    found, log = load(comfyui_path, tmp_path, damaged, whole)
    assert found["loaded"] == [False, True]
    assert found["nodes"] == ALL and found["from"] == [str(whole).replace(".", "_x_")]
    assert [module.partition(".")[0] for module in found["models"]] == found["from"]


def test_a_copy_whose_nodes_fail_after_it_was_set_up(comfyui_path, tmp_path):
    """Its routes, watch and model class are there already."""
    damaged, whole = copy(tmp_path / "custom_nodes" / "old"), link(tmp_path / "custom_nodes" / "steadydancer")
    file = damaged / "nodes" / "loaders.py"
    head = "def define_schema(cls) -> io.Schema:"
    assert head in file.read_text("utf-8")
    file.write_text(file.read_text("utf-8").replace(head, f"{head}\n        raise KeyError", 1))
    found, log = load(comfyui_path, tmp_path, damaged, whole)
    assert found["nodes"] == ALL and found["from"] == [str(whole).replace(".", "_x_")]
    assert [module.partition(".")[0] for module in found["models"]] == found["from"]


def test_another_packages_node_of_the_same_name_is_no_copy(comfyui_path, tmp_path):
    other, ours = tmp_path / "custom_nodes" / "other", link(tmp_path / "custom_nodes" / "steadydancer")
    other.mkdir()
    (other / "__init__.py").write_text("class Guider: pass\nNODE_CLASS_MAPPINGS = {'SteadyDancerGuider': Guider}")
    found, log = load(comfyui_path, tmp_path, other, ours)
    assert found["loaded"] == [True, True] and found["nodes"] == ALL
    assert "installed twice" not in log


@pytest.mark.skipif(os.name == "nt", reason="Windows has no read-only folders")
def test_a_read_only_input_folder_costs_the_examples_only(comfyui_path, tmp_path):
    (tmp_path / "input").mkdir(mode=0o555)
    found, log = load(
        comfyui_path, tmp_path, link(tmp_path / "custom_nodes" / "steadydancer"), prepare=without_override
    )
    assert found["nodes"] == ALL
    (line,) = warnings(log)
    assert "the examples' inputs were not copied into the input folder" in line
    assert str(tmp_path / "input") in line and "permission denied" in line and "Errno" not in line


FAILURES = {
    "model": ("import comfy.supported_models as s; s.models.remove(s.WAN21_I2V)", "load without the pose"),
    "routes": ("instance.__class__.routes = property(lambda self: 1 / 0)", "not watched"),
    "input": ("import shutil; shutil.copyfile = lambda *paths: 1 / 0", "not copied"),
    "thread": (
        "import os, threading; os.environ['ENABLE_R2_SYNC'] = '1'; start = threading.Thread.start\n"
        "def refuse(self):\n"
        "    if self.name == 'r2-sync': raise RuntimeError(\"can't start new thread\")\n"
        "    start(self)\n"
        "threading.Thread.start = refuse",
        "not watched",
    ),
}


@pytest.mark.parametrize("name", FAILURES)
def test_whatever_fails_at_the_start_leaves_the_nodes(comfyui_path, tmp_path, name):
    change, words = FAILURES[name]
    if name == "routes":
        change += "\ninstance.add_routes = lambda: None"
    found, log = load(comfyui_path, tmp_path, link(tmp_path / "custom_nodes" / "steadydancer"), change=change)
    assert found["loaded"] == [True] and found["nodes"] == ALL
    (line,) = [line for line in warnings(log) if words in line]
    assert line.rstrip().endswith(".")


@pytest.mark.parametrize("server", ["none", "stub"])
def test_without_a_web_server_the_nodes_load(comfyui_path, tmp_path, server):
    found, log = load(comfyui_path, tmp_path, link(tmp_path / "custom_nodes" / "steadydancer"), server=server)
    assert found["loaded"] == [True] and found["nodes"] == ALL and not warnings(log)


HEADLESS = """
import asyncio, json, logging, sys
comfyui, base, package, prompt = sys.argv[1:]
sys.path.insert(0, comfyui)
logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
from comfy.cli_args import args
args.cpu, args.base_directory, args.disable_api_nodes = True, base, True
import execution, folder_paths, nodes
asyncio.run(nodes.load_custom_node(package, module_parent="custom_nodes"))
class NoServer:
    client_id = last_node_id = last_prompt_id = None
    def send_sync(self, *what): pass
executor = execution.PromptExecutor(NoServer(), cache_args={"lru": 0, "ram": 0.0, "ram_inactive": 0.0})
executor.execute(json.loads(prompt), "p-1", {}, ["3"])
assert "server" not in sys.modules
print(json.dumps({"success": executor.success, "messages": executor.status_messages}, default=str))
"""


def test_an_executor_without_a_web_server_runs_our_nodes(comfyui_path, tmp_path):
    """What would be shown under the nodes is in the log: steps, and what was saved where."""
    prompt = {
        "1": {"class_type": "EmptyImage", "inputs": {"width": 70, "height": 30, "batch_size": 3, "color": 255}},
        "2": {
            "class_type": "SteadyDancerFitImage",
            "inputs": {"image": ["1", 0], "area": "custom", "width": 64, "height": 32, "fit": "crop"},
        },
        "3": {
            "class_type": "SteadyDancerR2SaveImages",
            "inputs": {
                "images": ["2", 0], "filename_prefix": "a\n\u2028con/b", "profile": "auto", "format": "png", "quality": 95,
                "after_upload": "keep the local file", "share_safe": False, "key": "{prefix}/{name}",
                "overwrite": False, "link_minutes": 5, "day_facts": True,
            },
        },
    }  # fmt: skip
    (tmp_path / "output").mkdir()
    package = link(tmp_path / "custom_nodes" / "steadydancer")
    env = {name: value for name, value in os.environ.items() if not name.startswith("R2_")}
    done = warm.run(["-c", HEADLESS, comfyui_path, tmp_path, package, json.dumps(prompt)], tmp_path, env)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["success"], result["messages"]
    assert len(list((tmp_path / "output").rglob("*.png"))) == 3
    assert "70×30 → 64×32" in done.stderr
    assert "3 images in " in done.stderr
    assert "kept on this machine only" in done.stderr


def test_the_server_starts_with_two_copies_and_a_read_only_input_folder(comfyui_path, tmp_path):
    other = link(tmp_path / "custom_nodes" / "SteadyDancer backup")
    (tmp_path / "input").mkdir(mode=0o555)
    server = Server(comfyui_path, tmp_path)
    server.prepare = None if os.name == "nt" else without_override
    try:
        server.start()
        assert sum(name.startswith("SteadyDancer") for name in server.object_info()) == ALL
        assert server.get("/steadydancer/r2") == {"enabled": False, "problem": ""}
        assert sum("installed twice" in line for line in server.log().splitlines()) == 1
        assert str(other) in server.log() and "Traceback" not in server.log()
    finally:
        server.stop()
