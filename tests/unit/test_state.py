"""Where everything is kept that outlasts a run, and that nothing is lost on the way there from an earlier version."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from steadydancer import cli
from steadydancer.base import state
from steadydancer.base.state import state_file
from steadydancer.commands import machine, r2, user_folder
from steadydancer.planning.calibration import Calibration, Measurement
from support import ROOT

CALIBRATION, GPUS, PROFILES, JOURNAL = "vram_calibration.json", "gpus.toml", "r2.toml", "r2_journal.jsonl"


@pytest.fixture
def home(monkeypatch, tmp_path):
    """A home folder without any of our variables, and no ComfyUI around the commands."""
    for name in os.environ:
        if name.startswith(("R2_", "AWS_", "STEADYDANCER_", "MODELS_DIR")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    for command in (machine, r2):
        monkeypatch.setattr(command, "comfyui", lambda: None)
    state._tell.cache_clear()
    return tmp_path


def folders(home: Path, with_comfyui: bool) -> tuple[Path | None, Path, Path]:
    """The user folder, where version 0.1 kept some of the files, and where all are kept now."""
    if with_comfyui:
        return home / "user", home / "user" / "steadydancer", home / "user" / "__steadydancer"
    return None, home / ".config" / "__steadydancer", home / ".config" / "steadydancer"


both = pytest.mark.parametrize("with_comfyui", [True, False])


def left(folder: Path, name: str, text: str = "what the user has") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text, "utf-8")
    (folder / name).chmod(0o600)
    return folder / name


def test_with_comfyui_it_is_comfyuis(tmp_path):
    assert user_folder(tmp_path) == tmp_path / "user" and user_folder(None) is None


def test_without_comfyui_all_commands_use_one(home, capsys):
    assert cli.main(["plan", "--reset-calibration"]) == 0
    assert str(home / ".config" / "steadydancer" / CALIBRATION) in capsys.readouterr().out
    assert cli.main(["r2", "test"]) == 1
    assert str(home / ".config" / "steadydancer" / PROFILES) in capsys.readouterr().err


@both
def test_looking_makes_nothing(home, with_comfyui):
    user, _, now = folders(home, with_comfyui)
    assert state_file(PROFILES, user) == now / PROFILES
    assert list(home.iterdir()) == []


@both
@pytest.mark.parametrize("name", [CALIBRATION, GPUS, PROFILES, JOURNAL])
def test_it_moves_once_with_its_rights(home, with_comfyui, name):
    user, before, now = folders(home, with_comfyui)
    left(before, name)
    for _ in range(2):
        path = state_file(name, user)
        assert path == now / name and path.read_text("utf-8") == "what the user has"
        assert os.name == "nt" or path.stat().st_mode & 0o777 == 0o600
    assert not before.exists()


@both
def test_what_else_lies_there_stays(home, with_comfyui):
    """ComfyUI may have a user of that name, with workflows in the folder."""
    user, before, _ = folders(home, with_comfyui)
    left(before, GPUS)
    left(before / "workflows", "mine.json")
    state_file(GPUS, user)
    assert [path.name for path in before.iterdir()] == ["workflows"] and (before / "workflows" / "mine.json").exists()


@both
def test_where_both_are_neither_is_touched(home, with_comfyui, caplog):
    user, before, now = folders(home, with_comfyui)
    old, new = left(before, PROFILES, "old"), left(now, PROFILES, "new")
    for _ in range(2):
        assert state_file(PROFILES, user) == new
    assert (old.read_text(), new.read_text()) == ("old", "new")
    assert len(caplog.records) == 1 and "is not used" in caplog.text


@both
def test_where_it_cannot_be_moved_it_is_used_where_it_lies(home, with_comfyui):
    user, before, now = folders(home, with_comfyui)
    old = left(before, PROFILES)
    now.write_text("a file where the folder should be")
    assert state_file(PROFILES, user) == old and old.read_text() == "what the user has"


@pytest.mark.skipif(os.name == "nt", reason="links need a right there")
@both
@pytest.mark.parametrize("leads", [True, False])
def test_a_link_stays_one(home, with_comfyui, leads):
    """Profiles are often linked to a mounted secret, which may not be there yet."""
    user, before, _ = folders(home, with_comfyui)
    before.mkdir(parents=True)
    if leads:
        left(before.parent / "secrets", PROFILES)
    (before / PROFILES).symlink_to(Path("..", "secrets", PROFILES))
    path = state_file(PROFILES, user)
    assert path.is_symlink() and path.exists() == leads
    assert not leads or path.read_text() == "what the user has"


def test_many_processes_at_once(home):
    user, before, now = folders(home, True)
    left(before, CALIBRATION)
    code = (
        "import runpy, sys; from pathlib import Path; runpy.run_path(sys.argv[1])['load_package']();"
        "from steadydancer.base.state import state_file; print('ready', flush=True); sys.stdin.readline();"
        "print(state_file(sys.argv[3], Path(sys.argv[2])).read_text())"
    )
    command = [sys.executable, "-c", code, str(ROOT / "cli.py"), str(user), CALIBRATION]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(command, **pipes) for _ in range(6)]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    found = [process.communicate(timeout=60) for process in processes]
    assert found == [("what the user has\n", "")] * 6
    assert (now / CALIBRATION).exists() and not before.exists()


def test_the_plan_command_takes_over_what_there_was(home, capsys):
    """A calibration and prices of version 0.1, in ComfyUI's user folder."""
    _, before, now = folders(home, True)
    left(before, GPUS, '[gpus]\n"RTX 4090" = { price = 77.0 }\n')
    kind, gpu = "steadydancer/bf16/0.30.0/pytorch", "NVIDIA GeForce RTX 4090"
    Calibration(before / CALIBRATION).add([Measurement("sample", kind, gpu, 10**8, 10**9, 15 * 10**8)] * 3)
    command = ["plan", "--user-dir", str(home / "user"), "--variant", "fp8", "--gpu", "RTX 4090", "--json"]
    assert cli.main(command) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["calibrated"] and plan["card"]["price"] == 77.0
    assert sorted(path.name for path in now.iterdir() if path.is_file()) == [GPUS, CALIBRATION]
