"""ComfyUI's real page in a real Chromium, with the few things that a user does in it."""

import json
from dataclasses import replace
from pathlib import Path

from PIL import Image

from .client import Result
from .server import Server
from .workflows import text_encoders_of_loaders

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SETTINGS = {
    "Comfy.TutorialCompleted": True,  # else the templates dialog opens by itself and lies over everything
    "Comfy.Minimap.Visible": False,
    "LiteGraph.Canvas.MinFontSizeForLOD": 0,  # titles and values are readable in a screenshot of the whole graph
}
READY = "!!(window.app?.graph && window.app.vueAppReady && window.LiteGraph?.registered_node_types?.SaveImage)"

DROP = """([name, text]) => {
  const data = new DataTransfer();
  data.items.add(new File([text], name, { type: "application/json" }));
  const at = { dataTransfer: data, bubbles: true, cancelable: true, clientX: 800, clientY: 500 };
  for (const kind of ["dragenter", "dragover", "drop"])
    document.querySelector("#graph-canvas").dispatchEvent(new DragEvent(kind, at));
}"""

# Every node, also those inside boxes (subgraphs), with its id in the API prompt: "12:3".
EVERY_NODE = """const everyNode = (graph, path = "") => graph.nodes.flatMap((node) =>
    [{ node, graph, key: path + node.id }, ...(node.subgraph ? everyNode(node.subgraph, `${path}${node.id}:`) : [])]);
"""

SET_VALUES = (
    "(values) => {"
    + EVERY_NODE
    + """
  for (const { node, graph } of everyNode(app.graph))
    for (const [name, value] of Object.entries(values[node.title] ?? values[node.type] ?? {})) {
      let widget = node.widgets?.find((widget) => widget.name === name);
      if (!widget) throw new Error(`${node.type} has no widget ${name}`);
      const link = graph.links.get(node.inputs.find((slot) => slot.widget?.name === name)?.link);
      if (Number(link?.origin_id) === -10) {  // shown on the box, whose value counts
        const box = app.graph.nodes.find((node) => node.subgraph === graph);
        widget = box.widgets.find((widget) => widget.name === graph.inputs[link.origin_slot].name);
      }
      widget.value = value;
      widget.callback?.(value);
    }
}"""
)

USE_TINY_TEXT_ENCODER = (
    "(files) => {"
    + EVERY_NODE
    + """
  for (const { node, graph, key } of everyNode(app.graph)) {
    const isCore = node.type === "CLIPLoader";
    if (!isCore && !(key in files)) continue;
    const tiny = LiteGraph.createNode("TinyUMT5Loader");
    graph.add(tiny);
    tiny.pos = isCore ? [...node.pos] : [node.pos[0], node.pos[1] - 160];
    const values = { type: "wan", clip_name: files[key] };
    for (const widget of tiny.widgets)
      widget.value = isCore ? node.widgets.find((old) => old.name === widget.name).value : values[widget.name] ?? widget.value;
    const output = node.outputs.findIndex((slot) => slot.type === "CLIP");
    for (const id of [...(node.outputs[output].links ?? [])]) {
      const link = graph.links[id] ?? graph.links.get(id);
      tiny.connect(0, graph.getNodeById(link.target_id), link.target_slot);
    }
    if (isCore) graph.remove(node);
  }
}"""
)


class ComfyPage:
    """One tab on `server`. Put models and inputs in place before `open()`: the page asks for the lists once."""

    def __init__(self, tab, server: Server):
        self.tab = tab
        self.server = server

    def open(self) -> "ComfyPage":
        self.server.post("/settings", SETTINGS)
        self.tab.goto(self.server.url)
        self.tab.wait_for_function(READY, timeout=120_000)
        return self

    def drop(self, name: str, workflow: dict) -> None:
        """Drags a workflow file into the window."""
        self.tab.evaluate(DROP, [name, json.dumps(workflow)])
        self._wait_for_nodes(workflow)

    def template(self, name: str):
        """The card of a template of ours in the templates list, which is opened for it."""
        if not self.tab.get_by_test_id("template-workflows-content").is_visible():
            self.tab.get_by_label("Templates").first.click()
        self.tab.get_by_role("button", name="steadydancer", exact=True).click()
        card = self.tab.get_by_test_id(f"template-workflow-{name}")
        card.wait_for(timeout=30_000)
        card.scroll_into_view_if_needed()  # the page loads a picture when it comes into view
        return card

    def open_template(self, name: str, workflow: dict) -> None:
        """Clicks a template; `workflow` is what should come."""
        self.template(name).click()
        self._wait_for_nodes(workflow)

    def _wait_for_nodes(self, workflow: dict) -> None:
        wanted = sorted(node["type"] for node in workflow["nodes"])
        self.tab.wait_for_function(
            "(wanted) => JSON.stringify(app.graph.nodes.map((node) => node.type).sort()) === JSON.stringify(wanted)",
            arg=wanted,
            timeout=60_000,
        )

    def missing_nodes(self) -> list[str]:
        """Node types on the canvas that this ComfyUI does not have."""
        return self.tab.evaluate(
            "() => {" + EVERY_NODE + "return everyNode(app.graph).map(({ node }) => node.type)"
            ".filter((type) => !LiteGraph.registered_node_types[type])"
            ".filter((type) => !['MarkdownNote', 'Note', 'Reroute', 'PrimitiveNode'].includes(type)) }"
        )

    def nodes_in_error(self) -> list[str]:
        """Nodes with a red border: a file or a value that is not there."""
        return self.tab.evaluate(
            "() => {" + EVERY_NODE + "return everyNode(app.graph).map(({ node }) => node)"
            ".filter((node) => node.has_errors).map((node) => node.type) }"
        )

    def export(self) -> dict:
        """What Export (API) would save."""
        prompt = json.loads(self.tab.evaluate("async () => JSON.stringify((await app.graphToPrompt()).output)"))
        for node in prompt.values():
            node["inputs"].pop("video-preview", None)  # there only after the page has shown the video
            node["_meta"] = {"title": node["_meta"]["title"]}  # pages from 1.58 on add where a node comes from
        return prompt

    def set_values(self, values: dict[str, dict]) -> None:
        """Types values into widgets: {node's title or type: {widget name: value}}."""
        self.tab.evaluate(SET_VALUES, values)

    def use_tiny_text_encoder(self, prompt: dict) -> None:
        """Puts TinyUMT5Loader where the shipped graph, whose API form is `prompt`, has its text encoder."""
        files = {key: node["inputs"]["clip_name"] for key, node in text_encoders_of_loaders(prompt).items()}
        self.tab.evaluate(USE_TINY_TEXT_ENCODER, files)

    def press_run(self) -> str:
        """Presses Run and returns the id of the prompt that the page posted."""
        with self.tab.expect_response(
            lambda answer: answer.url.endswith("/prompt") and answer.request.method == "POST"
        ) as posted:
            # To the button itself: on a busy machine the page's own fading mask of a dropped file can stay above it.
            self.tab.get_by_test_id("queue-button").dispatch_event("click")
        answer = posted.value.json()
        assert "prompt_id" in answer, answer
        return answer["prompt_id"]

    def wait_for_result(self, prompt_id: str, timeout: float = 600) -> Result:
        """Waits until the prompt has ended and every video or picture it made is shown on the canvas."""
        result = self.server.wait(prompt_id, timeout)
        assert result.succeeded, result.error
        outside = {
            key: output for key, output in result.outputs.items() if ":" not in key
        }  # what is in a box stays there
        for file in replace(result, history={**result.history, "outputs": outside}).files:
            self.tab.wait_for_function(SHOWN, arg=file.name, timeout=30_000)
        return result

    def screenshot(self, path: Path) -> Path:
        """The window as the user sees it, the whole graph in view."""
        self.tab.keyboard.press(".")
        self.tab.wait_for_timeout(1000)
        self.tab.screenshot(path=str(path))
        return path

    def thumbnail(self, path: Path) -> Path:
        """The canvas alone, 640 pixels wide, as JPEG: the picture of a template."""
        self.screenshot(path.with_suffix(".png"))
        with Image.open(path.with_suffix(".png")) as window:
            width, height = window.size
            canvas = window.convert("RGB").crop((60, 90, width, height - 60))
        path.with_suffix(".png").unlink()
        canvas.resize((640, round(640 * canvas.height / canvas.width)), Image.Resampling.LANCZOS).save(path, quality=88)
        return path


# A node draws its pictures itself; a video is an element over the canvas, which must have loaded its first frame.
SHOWN = """(name) => {
  const has = (address) => decodeURIComponent(address ?? "").includes(name);
  const videos = [...document.querySelectorAll("video")];
  if (videos.some((video) => (has(video.currentSrc) || has(video.src)) && video.readyState >= 2)) return true;
  const pictures = [...document.querySelectorAll("img"), ...app.graph.nodes.flatMap((node) => node.imgs ?? [])];
  return pictures.some((picture) => has(picture.src) && picture.naturalWidth > 0);
}"""
