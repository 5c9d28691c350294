"""Types: zero errors in what is ours, and ComfyUI in the checker's sight."""

import re

from steadydancer.tools import typecheck

# Each line that ends in a code misuses ComfyUI's or our own code in the way that mypy calls so.
PLANTED = """
import comfy.model_management
import comfy.utils
import folder_paths
from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from comfy_execution.utils import get_executing_context
from steadydancer.dancer.conditioning import resize
from steadydancer.planning.plan import Job


def uses(patcher: ModelPatcher) -> None:
    comfy.utils.load_torch_file("a file", safely=True)  # call-arg
    comfy.model_management.free_memory(1)  # call-arg
    comfy.model_management.get_torch_devices()  # attr-defined
    patcher.load_on(0)  # attr-defined
    folder_paths.get_full_path("loras", "a", "b")  # call-arg
    get_executing_context().node_id  # union-attr
    io.Int.Input("a", default="1")  # arg-type
    resize("no picture", 16, 16)  # arg-type
    Job("steadydancer/fp8", 832, 480)  # call-arg
"""


def test_there_is_no_type_error(comfyui_path):
    done = typecheck.check(comfyui_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_misuse_of_comfyui_is_found(comfyui_path, tmp_path):
    (tmp_path / "planted.py").write_text(PLANTED, encoding="utf-8")
    done = typecheck.mypy(tmp_path, comfyui_path, ("-m", "planted"))
    found = re.findall(r"^planted\.py:(\d+): error: .*\[([\w-]+)\]$", done.stdout, re.MULTILINE)
    wanted = [(str(n), line.split("# ")[1]) for n, line in enumerate(PLANTED.splitlines(), 1) if "# " in line]
    assert found == wanted, done.stdout + done.stderr
