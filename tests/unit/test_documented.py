"""Every function says its types, and every public one what it does: read from the source, nothing is imported."""

import ast
from functools import lru_cache

import pytest
from support import ROOT

# What ComfyUI, torch and cli.py call by these names, and document themselves.
CONTRACTS = {
    "define_schema", "execute", "fingerprint_inputs", "validate_inputs", "check_lazy_status", "forward", "add_parser",
}  # fmt: skip
NOT_SHIPPED = {"tests", "benchmarks"}
Function = ast.FunctionDef | ast.AsyncFunctionDef


@lru_cache
def modules() -> dict[str, ast.Module]:
    """Path below the root → its syntax, of the package, of tools/ and of dev.py."""
    found = {path.relative_to(ROOT): path for path in sorted([*ROOT.glob("*.py"), *ROOT.glob("[a-z]*/**/*.py")])}
    shipped = {name: path for name, path in found.items() if name.parts[0] not in NOT_SHIPPED}
    return {name.as_posix(): ast.parse(path.read_text("utf-8")) for name, path in shipped.items()}


def definitions(tree: ast.AST, owner: str = ""):
    """(name with its class, node) of functions and classes, but for those inside a function."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Function):
            yield owner + node.name, node
        elif isinstance(node, ast.ClassDef):
            yield owner + node.name, node
            yield from definitions(node, f"{owner}{node.name}.")
        elif not isinstance(node, ast.expr):
            yield from definitions(node, owner)


def is_kernel(node: ast.AST) -> bool:
    """What Triton compiles: an annotation means something else to it."""
    return any(ast.unparse(decorator).startswith("triton.jit") for decorator in getattr(node, "decorator_list", ()))


def untyped(tree: ast.Module) -> list[str]:
    """Functions and methods with what of them has no annotation."""
    found = []
    for name, node in definitions(tree):
        if isinstance(node, ast.ClassDef) or is_kernel(node):
            continue
        every = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]
        static = any(ast.unparse(decorator) == "staticmethod" for decorator in node.decorator_list)
        own = every[0] if "." in name and not static else None
        missing = [arg.arg for arg in every if arg and arg is not own and not arg.annotation]
        if missing or not node.returns:
            found.append(f"{name}: {', '.join(missing) or 'what it returns'}")
    return found


def undocumented(tree: ast.Module) -> list[str]:
    """Public functions, classes and methods without a docstring. A node's is the description in its schema."""
    found = []
    for name, node in definitions(tree):
        private = any(part.startswith("_") for part in name.split("."))
        is_node = isinstance(node, ast.ClassDef) and "Node" in map(ast.unparse, node.bases)
        if not private and node.name not in CONTRACTS and not is_node and not ast.get_docstring(node):
            found.append(name)
    return found


def test_every_function_is_typed():
    assert len(modules()) > 100
    assert [f"{module}: {line}" for module, tree in modules().items() for line in untyped(tree)] == []


def test_what_is_public_has_a_docstring():
    assert [f"{module}: {name}" for module, tree in modules().items() for name in undocumented(tree)] == []
    assert [module for module, tree in modules().items() if tree.body and not ast.get_docstring(tree)] == []


@pytest.mark.parametrize(
    ("source", "types", "docstrings"),
    [
        ("def f(a: int) -> int:\n '''A.'''", 0, 0),
        ("def f(a) -> int:\n '''A.'''", 1, 0),
        ("async def f(*, a) -> int:\n '''A.'''", 1, 0),
        ("def f(*a, **b) -> int:\n '''A.'''", 1, 0),
        ("def f(a: int):\n '''A.'''", 1, 0),
        ("def f() -> int: ...", 0, 1),
        ("def _f(a): ...", 1, 0),
        ("class A:\n def f(self) -> int: ...", 0, 2),
        ("class A:\n '''A.'''\n @staticmethod\n def f(a) -> int:\n  '''A.'''", 1, 0),
        ("class A:\n '''A.'''\n def __len__(self): ...", 1, 0),
        ("class _A:\n def f(self) -> int: ...", 0, 0),
        ("class A(Node):\n @classmethod\n def execute(cls, a): ...", 1, 0),
        ("if True:\n def f(a): ...", 1, 1),
        ("def f() -> int:\n '''A.'''\n def g(a): ...", 0, 0),
        ("@triton.jit\ndef f(a):\n '''A.'''", 0, 0),
    ],
)
def test_what_is_missing_is_seen(source, types, docstrings):
    tree = ast.parse(source)
    assert (len(untyped(tree)), len(undocumented(tree))) == (types, docstrings)
