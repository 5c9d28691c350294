"""Where the commands keep what outlasts a run: in ComfyUI's user folder, or in one folder of the home folder."""

import os
from pathlib import Path

from steadydancer import cli
from steadydancer.commands import machine, r2, user_folder


def test_with_comfyui_it_is_comfyuis(tmp_path):
    assert user_folder(tmp_path) == tmp_path / "user"


def test_without_comfyui_all_commands_use_one(monkeypatch, tmp_path, capsys):
    for name in os.environ:
        if name.startswith(("R2_", "AWS_", "STEADYDANCER_", "MODELS_DIR")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    for command in (machine, r2):
        monkeypatch.setattr(command, "comfyui", lambda: None)
    assert cli.main(["plan", "--reset-calibration"]) == 0
    assert str(tmp_path / ".config" / "steadydancer" / "vram_calibration.json") in capsys.readouterr().out
    assert cli.main(["r2", "test"]) == 1
    assert str(tmp_path / ".config" / "__steadydancer" / "r2.toml") in capsys.readouterr().err
