"""dev.py as somebody types it, on machines that are not like this one."""

import os
import re
import subprocess
import sys

from steadydancer.tools import comfyui
from support import ROOT

# No Chromium in the PATH, no root, and Playwright's own download fails, since its folder is a file.
WITHOUT_CHROMIUM = """
import os, sys
sys.path.insert(0, sys.argv[1])
import dev
from tools import chromium
chromium.PROGRAMS, os.geteuid, dev.LAYERS = (), lambda: 1000, ("unit", "browser")
sys.exit(dev.main(sys.argv[2:]))
"""


def without_chromium(tmp_path, *arguments: str) -> subprocess.CompletedProcess:
    (tmp_path / "a file").touch()
    variables = {**os.environ, "COMFYUI_PATH": str(comfyui.find())}
    variables["PLAYWRIGHT_BROWSERS_PATH"] = str(tmp_path / "a file")
    command = [sys.executable, "-c", WITHOUT_CHROMIUM, str(ROOT), *arguments]
    return subprocess.run(command, env=variables, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300)


def test_without_chromium_the_other_layers_count(tmp_path):
    done = without_chromium(tmp_path, "test", "--", "-k", "test_registry_fields")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 passed" in done.stdout
    said = re.search(
        r"Not run: the (\d+) tests of the layer 'browser', for want of Chromium. To run them: (.+)", done.stderr
    )
    assert int(said[1]) > 20 and said[2].endswith("&& python dev.py test browser")


def test_without_chromium_the_browser_layer_asked_for_by_name_fails(tmp_path):
    done = without_chromium(tmp_path, "test", "browser")
    assert done.returncode == 1
    assert "for want of Chromium" in done.stderr and "passed" not in done.stdout


def with_comfyui(*arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(ROOT / "dev.py"), "test", "--comfyui", *arguments]
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300)


def test_another_comfyui_is_named_with_what_became_of_it():
    done = with_comfyui(str(comfyui.find()), "--", "--collect-only", "--quiet")
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(f"tests/e2e/test_{name}.py::" in done.stdout for name in ("quantised", "placement", "sampling"))
    assert done.stderr.rstrip().endswith(f"ComfyUI {comfyui.version(comfyui.find())}: passed")


def test_a_folder_without_comfyui_is_refused(tmp_path):
    for arguments, said in (([], "Say where the other ComfyUI is"), ([str(tmp_path)], "there is no ComfyUI there")):
        done = with_comfyui(*arguments)
        assert done.returncode == 1 and said in done.stderr and "Traceback" not in done.stderr
