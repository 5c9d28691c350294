"""Writes example_workflows/*.json and their API twins, built and exported by the real page; of the main one also the app
and the box for the node library.

    python dev.py run -- python tools/templates/make.py http://127.0.0.1:8188 [name…]

Start that server first with `python dev.py serve`. The graphs are in graphs.py beside this file.
"""

import json
import re
import shutil
import sys
import uuid
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tools.templates.dance import APP, APP_NAME, BLUEPRINT_CATEGORY, BLUEPRINT_DESCRIPTION, BLUEPRINT_NAME  # noqa: E402
from tools.templates.graphs import GRAPHS  # noqa: E402

EXAMPLES = ROOT / "example_workflows"
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")

BUILD = """
async (graph) => {
  const app = window.app;
  await app.loadGraphData({ version: 0.4, nodes: [], links: [], groups: [], last_node_id: 0, last_link_id: 0 });
  app.graph.clear();
  const made = {};
  for (const spec of graph.nodes) {
    const node = LiteGraph.createNode(spec.type);
    if (!node) throw new Error(`no node ${spec.type}`);
    app.graph.add(node);
    made[spec.key] = node;
    if (spec.title) node.title = spec.title;
    Object.assign(node.properties, spec.properties);
    for (const [name, value] of Object.entries(spec.widgets)) {
      const widget = name === "" ? node.widgets[0] : node.widgets?.find((w) => w.name === name);
      if (!widget) throw new Error(`${spec.type} has no widget ${name}: ${node.widgets?.map((w) => w.name)}`);
      widget.value = value;
      widget.callback?.(value);
      widget.value = value;
    }
    node.pos = spec.pos;
    const size = node.computeSize();
    node.size = [spec.width ?? Math.max(size[0], 270), spec.height ?? size[1]];
    if (spec.color) { node.color = spec.color; node.bgcolor = spec.color; }
  }
  for (const [from, output, to, input] of graph.links) {
    const out = made[from].outputs.findIndex((slot) => (slot.label ?? slot.name) === output || slot.name === output);
    const into = made[to].inputs.findIndex((slot) => slot.name === input);
    if (out < 0 || into < 0) throw new Error(`no link ${from}.${output} to ${to}.${input}`);
    if (!made[from].connect(out, made[to], into)) throw new Error(`refused: ${from}.${output} to ${to}.${input}`);
  }
  const framed = graph.groups.map(([title, x, y, w, h]) => {
    const group = new LiteGraph.LGraphGroup(title);
    group.pos = [x, y];
    group.size = [w, h];
    app.graph.add(group);
    return group;
  });
  if (graph.box) {
    const { title, keys, labels, inputs, outputs, pos, size } = graph.box;
    const { subgraph, node } = app.graph.convertToSubgraph(new Set([...keys.map((key) => made[key]), ...framed]));
    subgraph.name = node.title = title;
    const inner = (key) => subgraph.getNodeById(made[key].id);
    for (const slot of subgraph.inputs.slice(labels.length)) subgraph.removeInput(slot);  // the page promotes some by itself
    subgraph.inputs.forEach((slot, i) => subgraph.renameInput(slot, labels[i]));
    subgraph.outputs.forEach((slot, i) => subgraph.renameOutput(slot, outputs[i]));
    for (const [name, label, target] of inputs) {
      const [key, widget] = target.split(".");
      const input = inner(key).inputs.find((slot) => slot.name === widget);
      const slot = subgraph.addInput(name, input.type);
      subgraph.renameInput(slot, label);
      if (!slot.connect(input, inner(key))) throw new Error(`not promoted: ${target}`);
    }
    node.pos = pos;
    node.size = size;
  }
  const exported = await app.graphToPrompt();
  // As text: a value that is undefined must be absent, not null.
  return JSON.stringify({ workflow: app.graph.serialize(), prompt: exported.output });
}
"""

READY = "!!(window.app?.graph && window.LiteGraph?.registered_node_types?.SteadyDancerToVideo)"


def main(server: str, names: list[str]) -> None:
    """Builds the named graphs, or all, in the page of a running server, and writes each in both forms."""
    (EXAMPLES / "api").mkdir(parents=True, exist_ok=True)
    (ROOT / "subgraphs").mkdir(exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-background-networking"]
        )
        page = browser.new_page()
        for name in names or GRAPHS:
            page.goto(server)  # anew: widgets of the graph before would leave their values behind
            page.wait_for_function(READY)
            built = json.loads(with_lasting_ids(page.evaluate(BUILD, GRAPHS[name]), name))
            workflow = built["workflow"]
            workflow["id"] = str(uuid.uuid5(uuid.NAMESPACE_URL, name))
            workflow["extra"] = {}
            write(EXAMPLES / f"{name}.json", workflow)
            write(EXAMPLES / "api" / f"{name}.json", built["prompt"])
            print(f"{name}: {len(workflow['nodes'])} nodes")
            if name == "steadydancer_from_video":
                write(EXAMPLES / f"{APP_NAME}.app.json", as_app(workflow))
                write(ROOT / "subgraphs" / f"{BLUEPRINT_NAME}.json", as_blueprint(workflow))
        browser.close()


def with_lasting_ids(text: str, name: str) -> str:
    """The same ids at every run, so that a diff shows what changed: the page makes up those of boxes and their slots."""
    made = list(dict.fromkeys(UUID.findall(text)))
    lasting = {old: str(uuid.uuid5(uuid.NAMESPACE_URL, f"{name}/{place}")) for place, old in enumerate(made)}
    return UUID.sub(lambda found: lasting[found[0]], text)


def as_app(workflow: dict) -> dict:
    """The workflow as it opens in ComfyUI's app mode: a form with the inputs of APP, Run, and the result."""
    ids = {node.get("title"): str(node["id"]) for node in workflow["nodes"]}
    form = {
        "inputs": [[ids[title], widget] for title, widget, _ in APP["inputs"]],
        "outputs": [ids[title] for title in APP["outputs"]],
    }
    workflow = json.loads(json.dumps(workflow))
    labels = {(title, widget): label for title, widget, label in APP["inputs"]}
    for node in workflow["nodes"]:
        for slot in node["inputs"]:
            slot["label"] = labels.get((node.get("title"), slot["name"]), slot.get("label", slot["name"]))
    return {
        **workflow,
        "id": str(uuid.uuid5(uuid.NAMESPACE_URL, APP_NAME)),
        "extra": {"linearMode": True, "linearData": form},
    }


def as_blueprint(workflow: dict) -> dict:
    """The box alone, as the node library lists it and puts it into a graph."""
    (box,) = (node for node in workflow["nodes"] if UUID.fullmatch(node["type"]))
    inputs = [{**slot, "link": None} for slot in box["inputs"]]
    outputs = [{**slot, "links": []} for slot in box["outputs"]]
    alone = {**box, "title": BLUEPRINT_NAME, "pos": [0, 0], "order": 0, "inputs": inputs, "outputs": outputs}
    (inside,) = workflow["definitions"]["subgraphs"]
    named = {**inside, "name": BLUEPRINT_NAME, "category": BLUEPRINT_CATEGORY, "description": BLUEPRINT_DESCRIPTION}
    blueprint = {**workflow, "nodes": [alone], "links": [], "definitions": {"subgraphs": [named]}, "extra": {}}
    return json.loads(with_lasting_ids(json.dumps(blueprint), BLUEPRINT_NAME))


def write(path: Path, data: dict) -> None:
    """Writes a workflow as JSON that reads well in a diff."""
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
