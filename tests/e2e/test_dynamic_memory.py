"""A plan under ComfyUI's dynamic memory, by its installed library: what the stand-ins of test_placement.py cannot show."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from support import TESTS

SUPPORT = TESTS / "support"


@pytest.fixture(scope="module")
def facts(comfyui_path, tmp_path_factory):
    compiler = shutil.which("cc")
    if not (sys.platform == "linux" and compiler):
        pytest.skip("the stub driver is made by a C compiler, for Linux")
    library = tmp_path_factory.mktemp("driver") / "libcuda.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, SUPPORT / "stub_libcuda.c"], check=True)
    done = subprocess.run(
        [sys.executable, SUPPORT / "on_stub_driver.py", library],
        env={**os.environ, "PYTHONPATH": str(TESTS), "COMFYUI_PATH": str(comfyui_path)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    print(done.stdout)
    assert done.returncode == 0, done.stderr[-3000:]
    return {fact["name"]: fact for fact in map(json.loads, done.stdout.splitlines())}


def test_without_a_plan_comfyui_takes_what_there_is_and_gives_it_back(facts):
    assert facts["unplanned"]["loaded"] == 1536 and facts["unplanned"]["survives"]


@pytest.mark.parametrize("name", ["planned", "clone", "second run", "planned, more beside than planned"])
def test_no_more_than_planned_is_on_the_card(facts, name):
    assert 0 < facts[name]["loaded"] <= 640


@pytest.mark.parametrize(
    "name",
    ["planned, more beside than planned", "planned nearly full, more beside than planned", "clone", "second run"],
)
def test_a_plan_leaves_comfyui_its_way_out_of_full_memory(facts, name):
    """Where activations take more than planned, weights make room, as they do without a plan."""
    assert facts[name]["survives"]
    assert facts[name]["left"] <= facts[name]["loaded"]


def test_room_is_made_below_the_planned_weights(facts):
    fact = facts["planned nearly full, more beside than planned"]
    assert fact["loaded"] > 1024 >= fact["left"]
