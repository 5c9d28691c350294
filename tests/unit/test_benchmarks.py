"""Benchmarks name what there is: nobody runs all of them after a change, and some wait for a card."""

import ast
import importlib.util
from pathlib import Path

import pytest
from support import ROOT

SCRIPTS = sorted((ROOT / "benchmarks").glob("*.py"))
MEASURE_A_CARD = ("dequant.py", "gpu.py", "pose.py", "quantised_step.py", "sampling.py", "turbo.py", "vram.py")


def imports(body: list[ast.stmt] | ast.AST) -> list[tuple[int, str, tuple[str, ...]]]:
    """(line, module, names) of every import in `body`."""
    found = []
    for node in ast.walk(body) if isinstance(body, ast.AST) else body:
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name, ()) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.lineno, node.module, tuple(alias.name for alias in node.names)))
    return found


def defined(file: Path) -> set[str]:
    """The names that a module has when it is imported."""
    names: set[str] = set()
    for node in ast.parse(file.read_text("utf-8")).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif hasattr(node, "name"):
            names.add(node.name)
        else:
            names |= {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
    return names


def file_of(module: str, folder: Path) -> Path | None:
    """A module's file below a folder."""
    path = Path(folder, *module.split("."))
    return next((file for file in (path.with_suffix(".py"), path / "__init__.py") if file.exists()), None)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_what_it_takes_of_the_package_is_there(script):
    taken = [
        (line, module.partition(".")[2], names)
        for line, module, names in imports(ast.parse(script.read_text("utf-8")))
        if module.startswith("steadydancer.")
    ]
    for line, module, names in taken:
        file = file_of(module, ROOT)
        assert file, f"{script.name}:{line}: there is no {module}"
        lacking = {name for name in names if not file_of(f"{module}.{name}", ROOT)} - defined(file)
        assert not lacking, f"{script.name}:{line}: {module} has no {lacking}"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_it_starts(script):
    """What stands at its top is beside it, in a folder that it names, or installed; where cards are measured on Windows too."""
    text = script.read_text("utf-8")
    folders = [script.parent, *(ROOT / name for name in ("tools", "tests") if f'"{name}"' in text)]
    for line, module, _ in imports(ast.parse(text).body):
        assert script.name not in MEASURE_A_CARD or module not in ("resource", "fcntl"), f"{script.name}:{line}"
        beside = any(file_of(module, folder) for folder in folders)
        assert beside or importlib.util.find_spec(module.partition(".")[0]), f"{script.name}:{line}: no {module}"
