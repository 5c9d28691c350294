"""What a release zip would hold, read as the registry's scanner and its reviewers read it."""

import ast
import fnmatch
import re
import subprocess
from pathlib import Path

import pytest
from support import ROOT

# Every right to do something that a stranger would rather ask about, and the only files that have it.
RIGHTS = {
    "network": (
        "loaders/download/fetch.py",
        "loaders/download/hub*.py",
        "loaders/download/transfer*.py",
        "bucket/*.py",
        "commands/queue.py",
        "commands/server.py",
    )
    + ("services/r2_watch.py", "services/health.py"),  # each answers a GET
    "environment": ("base/environment.py",),
    "process": (),
    "code from text": ("formats/pickle_file.py",),  # goes through a pickle and makes nothing of what it names
}
MODULES = {
    "network": {
        "socket",
        "ssl",
        "http",
        "urllib",
        "requests",
        "aiohttp",
        "httpx",
        "boto3",
        "botocore",
        "huggingface_hub",
    },
    "process": {"subprocess", "pty", "multiprocessing"},
    "code from text": {"pickle", "marshal", "shelve", "dill"},
}
HARMLESS = {"urllib.parse", "http.HTTPStatus"}
CALLS = {
    "process": {"os.system", "os.popen", "os.execv", "os.execve", "os.spawnv", "os.fork"},
    "environment": {"os.getenv", "os.putenv"},
    "code from text": {"eval", "exec", "compile", "__import__"},
}
COMFYUI = ("comfy", "comfy_api", "comfy_execution", "comfy_extras", "nodes", "execution", "server", "folder_paths")


@pytest.fixture(scope="session")
def packed() -> list[Path]:
    """The files of a release: what git has or would have, less .comfyignore."""

    def listed(*options: str) -> set[str]:
        command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", *options]
        done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8")
        if done.returncode:
            pytest.skip("this is not a git checkout, so what a release would hold is not known")
        return set(filter(None, done.stdout.split("\0")))

    ignored = listed("--ignored", f"--exclude-from={ROOT / '.comfyignore'}")
    return [Path(name) for name in sorted(listed("--exclude-standard") - ignored) if (ROOT / name).exists()]


@pytest.fixture(scope="session")
def sources(packed) -> dict[str, ast.Module]:
    return {file.as_posix(): ast.parse((ROOT / file).read_text("utf-8")) for file in packed if file.suffix == ".py"}


def test_zip_holds_what_users_need_and_nothing_else(packed):
    names = {file.as_posix() for file in packed}
    assert {"__init__.py", "requirements.txt", "pyproject.toml", "LICENSE", "README.md", "cli.py"} <= names
    folders = {file.parts[0] for file in packed if len(file.parts) > 1}
    assert {"nodes", "web", "locales", "example_workflows", "subgraphs"} <= folders
    assert not folders & {"tests", "tools", "benchmarks", ".ci", ".github"}
    assert not [name for name in names if "__pycache__" in name or name.endswith((".pyc", ".log", ".safetensors"))]
    assert "dev.py" not in names


def test_rights(sources):
    used = []
    for name, tree in sources.items():
        for right, what in rights_used(tree):
            if not any(fnmatch.fnmatch(name, pattern) for pattern in RIGHTS[right]):
                used.append(f"{name}: {right}: {what}")
    assert not used


def rights_used(tree: ast.Module):
    """(right, what) for each import, call or attribute that needs one."""
    for node in ast.walk(tree):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            modules = [f"{node.module}.{alias.name}" for alias in node.names]
        for module in modules:
            for right, roots in MODULES.items():
                if module.partition(".")[0] in roots and not module.startswith(tuple(HARMLESS)):
                    yield right, f"import {module}"
            if module in ("os.environ", "os.getenv"):
                yield "environment", f"import {module}"
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            for right, names in CALLS.items():
                if name in names:
                    yield right, name
            if name == "torch.load" and "weights_only=True" not in ast.unparse(node):
                yield "code from text", "torch.load without weights_only=True"
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "os.environ":
            yield "environment", "os.environ"


def test_scanner_words_in_other_files(packed):
    """The registry's scanner reads help pages and workflows too."""
    words = re.compile(r"raw\.githubusercontent\.com|ClientSession|\.connect\(|\.bind\(|os\.environ|subprocess")
    texts = [file for file in packed if file.suffix in (".md", ".json", ".js", ".toml", ".txt", ".html")]
    assert not [f"{file}: {hit[0]}" for file in texts if (hit := words.search((ROOT / file).read_text("utf-8")))]


def test_nothing_of_comfyui_is_replaced(sources):
    """No attribute of a ComfyUI module or class is assigned: extend through its lists, wrappers and patchers."""
    replaced = []
    for name, tree in sources.items():
        imported = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                imported |= {
                    alias.asname or alias.name.partition(".")[0]
                    for alias in node.names
                    if alias.name.partition(".")[0] in COMFYUI
                }
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module.partition(".")[0] in COMFYUI:
                imported |= {alias.asname or alias.name for alias in node.names}
        for node in ast.walk(tree):
            targets = []
            if isinstance(node, ast.Assign):
                targets = node.targets
            elif isinstance(node, ast.AugAssign | ast.AnnAssign):
                targets = [node.target]
            elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("setattr", "delattr"):
                targets = [ast.Attribute(node.args[0], "")]
            for target in targets:
                if isinstance(target, ast.Attribute) and root_name(target) in imported:
                    replaced.append(f"{name}:{node.lineno}: {ast.unparse(node).splitlines()[0]}")
    assert not replaced


def root_name(node: ast.expr) -> str:
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def test_rooms_import_each_other_relatively(sources):
    """An absolute import of a room finds ComfyUI's module of that name, or nothing, when ComfyUI runs."""
    rooms = {name.partition("/")[0] for name in sources if "/" in name} - {"nodes"}
    wrong = []
    for name, tree in sources.items():
        for node in ast.walk(tree):
            module = node.module if isinstance(node, ast.ImportFrom) and node.level == 0 else None
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [module or ""]
            wrong += [f"{name}: {m}" for m in modules if m.partition(".")[0] in rooms | {"steadydancer"}]
    assert not wrong


def test_nothing_takes_precedence_over_the_entry_point(sources):
    """A NODE_CLASS_MAPPINGS, even an empty one, would make ComfyUI ignore comfy_entrypoint."""
    assert "NODE_CLASS_MAPPINGS" not in {
        node.id for node in ast.walk(sources["__init__.py"]) if isinstance(node, ast.Name)
    }
