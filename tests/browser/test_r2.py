"""A saved file dropped on the real page brings its graph back."""

import base64
import json
import time

import pytest
from support import ROOT
from support.page import ComfyPage
from support.s3_server import StrictS3
from support.workflows import load

EXAMPLE = ROOT / "example_workflows" / "save_to_r2.json"

DROP = """
([name, type, data]) => {
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const transfer = new DataTransfer();
  transfer.items.add(new File([bytes], name, { type }));
  const at = { dataTransfer: transfer, bubbles: true, cancelable: true };
  for (const kind of ["dragenter", "dragover", "drop"])
    document.querySelector("#graph-canvas").dispatchEvent(new DragEvent(kind, at));
}
"""


@pytest.fixture
def page(chromium, start_comfy, tmp_path):
    """A tab on a server whose environment names a bucket."""
    with StrictS3(tmp_path / "s3").running() as s3:
        server = start_comfy(variables=s3.profile)
        tab = chromium.new_page(viewport={"width": 1600, "height": 1000})
        yield ComfyPage(tab, server).open()
        tab.close()
        server.stop()


def graph_of(page) -> list:
    """Node types, values and links, without what the page decides anew such as sizes."""
    graph = json.loads(page.tab.evaluate("JSON.stringify(window.app.graph.serialize())"))
    return [sorted((node["id"], node["type"], json.dumps(node.get("widgets_values"))) for node in graph["nodes"])] + [
        sorted(map(json.dumps, graph["links"]))
    ]


def wait_for(condition, seconds: float = 60):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.1)
    return found


def test_a_dropped_result_restores_its_graph(page):
    page.drop(EXAMPLE.name, load(EXAMPLE))
    before = graph_of(page)
    assert len(before[0]) == len(load(EXAMPLE)["nodes"])
    result = page.wait_for_result(page.press_run())
    page.tab.get_by_text("s3://renders/newest.mp4").wait_for(timeout=60_000)
    for ending, kind in ((".mp4", "video/mp4"), (".png", "image/png")):
        path = next(path for path in result.files if path.suffix == ending)
        page.tab.evaluate("window.app.graph.clear()")
        assert graph_of(page)[0] == []
        page.tab.evaluate(DROP, [path.name, kind, base64.b64encode(path.read_bytes()).decode()])
        wait_for(lambda: graph_of(page) == before)
