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
