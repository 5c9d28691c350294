"""For layers that run without ComfyUI: importing any of it there is an error, wherever else in the session it is loaded."""

import sys

import pytest

COMFYUI = {
    "comfy",
    "comfy_api",
    "comfy_execution",
    "comfy_extras",
    "execution",
    "folder_paths",
    "node_helpers",
    "server",
}


class NoComfyUI:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] in COMFYUI:
            raise ModuleNotFoundError(f"{name} is ComfyUI's, and unit tests run without ComfyUI", name=name)


@pytest.fixture(autouse=True)
def no_comfyui(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] in COMFYUI]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [NoComfyUI, *sys.meta_path])
