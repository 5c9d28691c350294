"""Who may import whom: rooms stand on floors, nothing imports from its own floor's other rooms or from above."""

import ast
import fnmatch
import re
from functools import lru_cache

import pytest
from support import ROOT
from support.without_comfyui import COMFYUI

# The list that docs/architecture.md shows, from the ground up. A room may import what stands on lower lines.
FLOORS = (
    ("base",),
    ("machine", "catalog", "formats"),
    ("quant", "pose", "media", "bucket", "planning", "convert", "loaders/download"),
    ("dancer", "report"),
    ("turbo",),
    ("loaders",),
    ("services", "commands"),
    ("nodes",),
    ("__init__", "cli"),
)
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
# What operators use without ComfyUI, and what is tested without it.
FREE = (
    "base/*", "bucket/*", "catalog/*", "cli", "commands/*", "convert/*", "formats/*", "loaders/download/*", "machine/*", "media/*",
    "planning/*", "pose/*", "quant/blocks", "report/*", "turbo/schedule",
)  # fmt: skip
NETS = ("pose/layers", "pose/rtmpose", "pose/weights", "pose/yolox")  # building them may import it, in a function
COMFYUI_MODULES = COMFYUI | {"nodes", "comfyui_version", "latent_preview", "comfy_config", "utils", "app"}


@lru_cache
def modules() -> dict[str, ast.Module]:
    """Name without .py, relative to the root → its syntax, of everything that is shipped."""
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT)
        if name.parts[0] in FLOOR or name.stem in FLOOR and len(name.parts) == 1:
            found[name.with_suffix("").as_posix()] = ast.parse(path.read_text("utf-8"))
    return found


def imports(tree: ast.Module, module: str):
    """(dotted name, whether in a function) of everything that a module imports: our own from the root, as `.room.file`."""
    top = set(map(id, tree.body))
    for node in ast.walk(tree):
        inside = id(node) not in top
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield own(alias.name), inside
        elif isinstance(node, ast.ImportFrom) and not node.level:
            for alias in node.names:
                yield own(f"{node.module}.{alias.name}"), inside
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                yield absolute("." * node.level + (node.module or ""), module) + f".{alias.name}", inside
        elif isinstance(node, ast.Call) and named(node.func) in ("import_module", "__import__") and node.args:
            name = literal(node.args[0])
            yield (absolute(name, module) if name.startswith(".") else own(name)), inside


def own(name: str) -> str:
    """`steadydancer.nodes` is our `.nodes`; what is another's keeps its name."""
    return name.removeprefix("steadydancer") if name.split(".")[0] == "steadydancer" else name


def absolute(name: str, module: str) -> str:
    """A relative name as seen from `module`, from the root: `..nodes.x` in `loaders/build` is `.nodes.x`."""
    level = len(name) - len(name.lstrip("."))
    package = module.split("/")[:-1]
    base = package[: len(package) - level + 1]
    return "." + ".".join([*base, *filter(None, name[level:].split("."))])


def named(function: ast.expr) -> str:
    return (
        function.attr if isinstance(function, ast.Attribute) else function.id if isinstance(function, ast.Name) else ""
    )


def literal(argument: ast.expr) -> str:
    """The text of a literal, of an f-string as far as its first value."""
    if isinstance(argument, ast.JoinedStr):
        argument = argument.values[0]
    value = argument.value if isinstance(argument, ast.Constant) else ""
    return value if isinstance(value, str) else ""


def wrong(tree: ast.Module, module: str) -> list[str]:
    """What a module must not import, as it does."""
    room, found = room_of(module.split("/")), []
    for name, inside in imports(tree, module):
        parts = [*filter(None, name.split("."))]
        if name.startswith("."):
            other = room_of(parts)
            if parts and (not other or other != room and FLOOR[other] >= FLOOR[room]):
                found.append(f"{module} imports {name}")
        elif parts[0] in COMFYUI_MODULES and free(module) and not (module in NETS and inside):
            found.append(f"{module} imports {name}")
    return found


def room_of(parts: list[str]) -> str:
    """The room that a name lies in, as FLOORS has it; empty where there is none."""
    return next((room for room in ("/".join(parts[:2]), *parts[:1]) if room in FLOOR), "")


def free(module: str) -> bool:
    return any(fnmatch.fnmatchcase(module, pattern) for pattern in FREE)


def test_every_room_stands_on_a_floor():
    found = modules()
    assert len(found) > 90
    rooms = {path.parent.relative_to(ROOT).parts[0] for path in ROOT.glob("*/*.py")}
    assert rooms - {"tests", "benchmarks", "tools"} <= set(FLOOR)
    assert {room_of(name.split("/")) for name in found} == set(FLOOR)


def test_nodes_holds_nodes():
    """Every file of nodes/ has a node; what nodes share lies in services/."""
    for name, tree in modules().items():
        if name.startswith("nodes/") and name != "nodes/__init__":
            bases = [ast.unparse(base) for node in tree.body if isinstance(node, ast.ClassDef) for base in node.bases]
            assert "Node" in bases, name


def test_nothing_imports_from_above():
    found = [line for module, tree in modules().items() for line in wrong(tree, module)]
    assert found == []


def test_what_is_free_of_comfyui_exists():
    found = modules()
    for pattern in FREE:
        assert [module for module in found if fnmatch.fnmatchcase(module, pattern)], pattern
    assert set(NETS) <= set(found)


@pytest.mark.parametrize(
    ("module", "line"),
    [
        ("loaders/download/errors", "from ... import nodes"),
        ("loaders/download/errors", "from ...nodes import loaders"),
        ("loaders/download/errors", "from ...nodes.loaders import CATEGORY"),
        ("loaders/download/errors", "from ... import base, nodes as n"),
        ("loaders/download/errors", "from .. import build"),
        ("loaders/download/errors", "from ..build import detected"),
        ("loaders/download/errors", "import steadydancer.nodes"),
        ("loaders/download/errors", "from steadydancer import nodes"),
        ("loaders/download/errors", "from steadydancer.services.loading import load"),
        ("loaders/download/errors", "import importlib; importlib.import_module('...nodes', __package__)"),
        ("loaders/download/errors", "from importlib import import_module; import_module('steadydancer.nodes.loaders')"),
        ("loaders/download/errors", "import importlib; importlib.import_module(f'steadydancer.nodes.{1}')"),
        ("loaders/download/errors", "__import__('steadydancer.nodes')"),
        ("loaders/download/errors", "def later():\n    from ... import nodes"),
        ("loaders/download/errors", "if True:\n    from ...services import loading"),
        ("loaders/download/errors", "try:\n    from ...commands import plan\nexcept ImportError:\n    pass"),
        ("planning/choose", "from ..loaders import places"),
        ("planning/choose", "from .. import loaders"),
        ("planning/choose", "from ..pose import draw"),  # another room of the same floor
        ("machine/gpus", "from ..planning.plan import Plan"),
        ("catalog/names", "from ..machine import gpus"),
        ("commands/plan", "from ..services import loading"),
        ("services/loading", "from ..nodes import loaders"),
        ("base/environment", "from .. import nodes"),
        ("base/environment", "from ..catalog import catalog"),
        ("planning/choose", "from .. import budget"),  # a room that there is not
        ("loaders/download/errors", "import comfy.utils"),
        ("loaders/download/errors", "import comfy"),
        ("loaders/download/errors", "import torch, comfy.utils as u"),
        ("loaders/download/errors", "from comfy import utils"),
        ("loaders/download/errors", "from comfy.utils import load_torch_file"),
        ("loaders/download/errors", "import folder_paths"),
        ("loaders/download/errors", "def later():\n    import server"),
        ("loaders/download/errors", "import importlib; importlib.import_module('comfy.utils')"),
        ("loaders/download/errors", "__import__('comfy')"),
        ("machine/gpus", "import nodes"),
        ("planning/choose", "from execution import PromptExecutor"),
        ("pose/yolox", "import comfy.ops"),
        ("pose/align", "def later():\n    import comfy.ops"),
    ],
)
def test_every_form_of_import_is_seen(module, line):
    tree = modules()[module]
    assert wrong(tree, module) == []
    planted = ast.parse(ast.unparse(tree) + "\n" + line)
    assert len(wrong(planted, module)) == 1


def test_what_is_allowed_is_not_refused():
    for module, line in (
        ("loaders/build", "import comfy.utils"),
        ("loaders/placement", "from ..planning import plan"),
        ("loaders/build", "from .download import places"),
        ("loaders/download/errors", "from ...catalog import catalog"),
        ("loaders/download/errors", "from . import hub"),
        ("loaders/download/errors", "from .hub import resolve"),
        ("pose/yolox", "def net():\n    import comfy.ops"),
        ("nodes/loaders", "from ..services import loading"),
        ("planning/choose", "import json, re"),
    ):
        assert wrong(ast.parse(line), module) == []


def test_the_architecture_paper_shows_the_list():
    text = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    block = re.search(r"```floors\n(.*?)```", text, re.DOTALL)
    shown = [tuple(re.findall(r"[\w/]+", line)) for line in block[1].splitlines()]
    assert shown == list(FLOORS)
