"""Every node is complete: schema, tooltips, help page, labels in two languages, a place in an example."""

import ast
import json
import re

import pytest
from steadydancer.tools.labels import english, inputs
from steadydancer.tools.templates.graphs import GRAPHS
from support import ROOT
from support.workflows import EXAMPLES, node_types

SNAPSHOT = ROOT / "tests" / "contract" / "object_info.json"
ENGLISH = ROOT / "locales" / "en" / "nodeDefs.json"
HELP_PARTS = ("Input", "Output", "Example", "What can go wrong")


def differences(wanted, found, where: str = "") -> list[str]:
    """One line for each place where two pieces of JSON differ, instead of both of them whole."""
    if isinstance(wanted, dict) and isinstance(found, dict):
        keys = [*wanted, *(key for key in found if key not in wanted)]
        return [
            line
            for key in keys
            for line in differences(wanted.get(key, "nothing"), found.get(key, "nothing"), f"{where}/{key}")
        ]
    if isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        return [line for i, pair in enumerate(zip(wanted, found)) for line in differences(*pair, f"{where}/{i}")]
    return [] if wanted == found else [f"{where}: wanted {str(wanted)[:200]}, found {str(found)[:200]}"]


def labels(language: str) -> dict[str, dict]:
    return json.loads((ROOT / "locales" / language / "nodeDefs.json").read_text("utf-8"))


def literal_node_ids() -> list[str]:
    """The ids as Manager's scanner finds them: string literals in the source."""
    ids = []
    for file in (ROOT / "nodes").glob("*.py"):
        for call in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(call, ast.Call) and ast.unparse(call.func).endswith("Schema"):
                ids += [ast.literal_eval(keyword.value) for keyword in call.keywords if keyword.arg == "node_id"]
    return ids


def test_every_node_in_the_source_is_registered(our_nodes):
    """ComfyUI only warns when one node fails, and the ones after it vanish."""
    assert sorted(literal_node_ids()) == sorted(our_nodes)


def test_snapshot(our_nodes, request):
    """Ids, inputs, defaults and outputs are a promise to every saved workflow.

    `python dev.py test contract -- --update-snapshot` writes the new promise, and the English labels from it; the diff belongs in the commit.
    """
    now = {name: our_nodes[name] for name in sorted(our_nodes)}
    for info in now.values():
        info.pop("python_module", None)
    if request.config.getoption("--update-snapshot"):
        SNAPSHOT.write_text(json.dumps(now, indent=1, ensure_ascii=False) + "\n", "utf-8")
        ENGLISH.write_text(json.dumps(english(now), indent=2, ensure_ascii=False) + "\n", "utf-8")
    changed = differences(json.loads(SNAPSHOT.read_text("utf-8")), now)
    assert not changed, "\n".join(changed)


def test_names_and_tooltips(our_nodes):
    missing = []
    for node, info in our_nodes.items():
        if not info["category"].split("/")[0] == "SteadyDancer":
            missing.append(f"{node}: category {info['category']}")
        if not info["display_name"] or info["display_name"] == node or not info["description"]:
            missing.append(f"{node}: display name or description")
        missing += [f"{node}.{name}: tooltip" for name, options in inputs(info).items() if not options.get("tooltip")]
    assert not missing


def test_help_pages(our_nodes):
    missing = []
    for node, info in our_nodes.items():
        page = ROOT / "web" / "docs" / f"{node}.md"
        if not page.exists():
            missing.append(f"{node}: web/docs/{node}.md")
            continue
        text = page.read_text("utf-8")
        headings = " ".join(re.findall(r"^#+ (.*)$", text, re.MULTILINE))
        missing += [f"{node}: a part called '{part}'" for part in HELP_PARTS if part.lower() not in headings.lower()]
        names = [*inputs(info), *info["output_name"]]
        missing += [
            f"{node}: a word on {name}"
            for name in names
            if not re.search(rf"(?<!\w){re.escape(name.split('.')[-1])}(?!\w)", text, re.IGNORECASE)
        ]
    pages = {page.stem for page in (ROOT / "web" / "docs").glob("*.md")}
    assert not missing
    assert pages <= set(our_nodes), "a help page without a node"


def test_chinese_help_pages_name_the_same_inputs(our_nodes):
    """The page asks for docs/NODE/zh.md before docs/NODE.md."""
    pages = sorted((ROOT / "web" / "docs").glob("*/zh.md"))
    assert {page.parent.name for page in pages} == set(our_nodes)
    missing = [
        f"{page.parent.name}: a word on {name}"
        for page in pages
        for name in inputs(our_nodes[page.parent.name])
        if not re.search(rf"(?<!\w){re.escape(name)}(?!\w)", page.read_text("utf-8"), re.ASCII)
    ]
    assert not missing


def test_help_pages_are_served(comfy_server, our_nodes):
    for node in our_nodes:
        page = comfy_server.get_bytes(f"/extensions/steadydancer/docs/{node}.md").decode()
        assert page == (ROOT / "web" / "docs" / f"{node}.md").read_text("utf-8")
    chinese = comfy_server.get_bytes("/extensions/steadydancer/docs/SteadyDancerLoader/zh.md").decode()
    assert chinese.startswith("# 加载 SteadyDancer")


def test_english_labels_say_what_the_schema_says(our_nodes):
    other = differences(english(our_nodes), labels("en"))
    assert not other, "\n".join(other)


def test_chinese_labels_are_chinese_and_complete(our_nodes):
    chinese = re.compile("[\u4e00-\u9fff]")
    english, missing = labels("en"), []
    assert labels("zh").keys() == english.keys()
    for node, label in labels("zh").items():
        for part in ("inputs", "outputs"):
            if label.get(part, {}).keys() != english[node].get(part, {}).keys():
                missing.append(f"{node}: other {part} than in English")
        texts = {"display_name": label["display_name"], "description": label["description"]}
        texts |= {f"{name}.tooltip": entry.get("tooltip", "") for name, entry in label.get("inputs", {}).items()}
        missing += [f"{node}.{name}" for name, text in texts.items() if not chinese.search(text)]
    assert not missing


def test_every_node_is_in_an_example(our_nodes):
    shown = set().union(*(node_types(json.loads(file.read_text("utf-8"))) for file in EXAMPLES))
    assert not set(our_nodes) - shown


def test_labels_reach_the_page(comfy_server, our_nodes):
    served = comfy_server.get("/i18n")
    for language in ("en", "zh"):
        assert set(our_nodes) <= served[language]["nodeDefs"].keys()


@pytest.mark.parametrize("name", GRAPHS)
def test_what_an_example_does_not_set_is_the_nodes_default(name, our_nodes):
    """The page has handed a value on to another node's widget of the same name."""
    prompt = json.loads((EXAMPLES[0].parent / "api" / f"{name}.json").read_text("utf-8"))
    graph = GRAPHS[name]
    boxed = graph["box"]["keys"] if "box" in graph else []
    for number, spec in enumerate(graph["nodes"], 1):
        if spec["type"] not in our_nodes:
            continue
        id = f"{len(graph['nodes']) + 1}:{number}" if spec["key"] in boxed else str(number)
        assert prompt[id]["class_type"] == spec["type"]
        for key, value in prompt[id]["inputs"].items():
            options = inputs(our_nodes[spec["type"]])[key]
            if not isinstance(value, list) and key not in spec["widgets"] and "default" in options:
                assert value == options["default"], f"{spec['key']}.{key}"


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)
def test_example_names_where_its_nodes_and_models_come_from(file, our_nodes):
    workflow = json.loads(file.read_text("utf-8"))
    boxes = workflow.get("definitions", {}).get("subgraphs", [])
    inside = [node for box in boxes for node in box["nodes"]]
    for node in [node for node in workflow["nodes"] if node["type"] not in [box["id"] for box in boxes]] + inside:
        properties = node["properties"]
        assert properties.get("cnr_id") == ("steadydancer" if node["type"] in our_nodes else "comfy-core"), node["type"]
        assert properties.get("ver"), node["type"]
        for model in properties.get("models", []):
            assert model["name"] in node["widgets_values"]
            assert model["url"].startswith("https://") and model["directory"]
    assert any(node["type"] == "MarkdownNote" for node in workflow["nodes"]), "a note that explains the inputs"
