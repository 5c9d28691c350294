"""Writes example_workflows/*.json and their API twins, built and exported by the real page.

    python dev.py run -- python tools/templates/make.py http://127.0.0.1:8188 [name…]

Start that server first with `python dev.py serve`. The graphs are in graphs.py beside this file.
"""

import json
import shutil
import sys
import uuid
from pathlib import Path

from graphs import GRAPHS  # the file beside this one
from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "example_workflows"

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
  for (const [title, x, y, w, h] of graph.groups) {
    const group = new LiteGraph.LGraphGroup(title);
    group.pos = [x, y];
    group.size = [w, h];
    app.graph.add(group);
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
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-background-networking"]
        )
        page = browser.new_page()
        for name in names or GRAPHS:
            page.goto(server)  # anew: widgets of the graph before would leave their values behind
            page.wait_for_function(READY)
            built = json.loads(page.evaluate(BUILD, GRAPHS[name]))
            workflow = built["workflow"]
            workflow["id"] = str(uuid.uuid5(uuid.NAMESPACE_URL, name))
            workflow["extra"] = {}
            write(EXAMPLES / f"{name}.json", workflow)
            write(EXAMPLES / "api" / f"{name}.json", built["prompt"])
            print(f"{name}: {len(workflow['nodes'])} nodes")
        browser.close()


def write(path: Path, data: dict) -> None:
    """Writes a workflow as JSON that reads well in a diff."""
    path.write_text(json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
