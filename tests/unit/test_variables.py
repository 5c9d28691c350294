"""Every environment variable that the code reads stands in the registry, and its page says what the registry says."""

import ast

import pytest
from steadydancer.base import variables
from steadydancer.base.variables import VARIABLES
from steadydancer.catalog.catalog import catalogue
from steadydancer.commands import prompt as api_prompt
from support import ROOT

PAGE = ROOT / "docs" / "environment.md"
READERS = {*(f"environment.{kind}" for kind in ("text", "flag", "number")), "one_of"}
KINDS = {"text", "flag", "number", "list", "secret"}


def read_in_source() -> set[str]:
    """The names that calls of environment.text, flag and number, and of rules.one_of, are given as literals."""
    names = set()
    for file in ROOT.rglob("*.py"):
        if file.relative_to(ROOT).parts[0] in ("tests", "tools", "benchmarks"):
            continue
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in READERS:
                names |= {word.value for word in node.args[:1] if isinstance(word, ast.Constant)}
    return names


def test_what_is_read_is_registered():
    found = read_in_source()
    assert len(found) > 12 and "GPU_TIER" in found
    for profile in catalogue().profiles.values():
        found |= {*profile.env, *profile.choices}
    found |= {*api_prompt.NUMBERS, *api_prompt.FEW_STEPS_NUMBERS}
    assert not found - VARIABLES.keys()


def test_the_catalogue_and_the_registry_agree_on_defaults():
    choices = {name: default for profile in catalogue().profiles.values() for name, default in profile.choices.items()}
    assert len(choices) >= 3
    assert choices == {name: VARIABLES[name].default for name in choices}


@pytest.mark.parametrize("variable", VARIABLES.values(), ids=VARIABLES)
def test_every_variable_says_what_it_is(variable):
    assert variable.kind in KINDS and variable.reader
    assert variable.help.endswith(".")


def test_the_page_is_fresh(request):
    """`python dev.py test unit -- --update-snapshot` writes it."""
    if request.config.getoption("--update-snapshot"):
        PAGE.write_text(variables.page() + "\n", "utf-8")
    assert PAGE.read_text("utf-8") == variables.page() + "\n"
