"""The main template, its app and its box in the node library, at the windows that people have."""

import itertools

from support import ROOT
from support.video import probe
from support.workflows import APPS, TINY_VALUES, load, model_files, twin

MAIN = ROOT / "example_workflows" / "steadydancer_from_video.json"
(APP,) = APPS
(BLUEPRINT,) = (ROOT / "subgraphs").glob("*.json")
# What the browser leaves of 1366×768, of a laptop at 125 % and of 1920×1080.
WINDOWS = [(1366, 625), (1536, 730), (1920, 945)]
SMALLEST = 9  # pixels of a letter's height that can be read

FONTS = """() => {
  const scale = app.canvas.ds.scale;
  const written = [...document.querySelectorAll("textarea.comfy-multiline-input, .comfy-markdown .tiptap")];
  const sizes = written.filter((e) => e.offsetParent).map((e) => parseFloat(getComputedStyle(e).fontSize));
  return { drawn: LiteGraph.NODE_SUBTEXT_SIZE * scale, written: sizes.map((size) => size * scale) };
}"""


def overlaps(page) -> list[str]:
    """Pairs of boxes that lie on each other."""
    boxes = page.tab.evaluate("app.graph.nodes.map((node) => [node.title, ...node.getBounding()].slice(0, 5))")
    return [
        f"{one} and {other}"
        for (one, x, y, w, h), (other, x2, y2, w2, h2) in itertools.combinations(boxes, 2)
        if x + w > x2 and x2 + w2 > x and y + h > y2 and y2 + h2 > y
    ]


def test_what_is_inside_lies_apart_and_in_named_groups():
    (inside,) = load(MAIN)["definitions"]["subgraphs"]
    boxes = [(node["id"], *node["pos"], *node["size"]) for node in inside["nodes"]]
    for (one, x, y, w, h), (other, x2, y2, w2, h2) in itertools.combinations(boxes, 2):
        assert x + w <= x2 or x2 + w2 <= x or y + h <= y2 - 30 or y2 + h2 <= y - 30, f"{one} and {other}"
    frames = [group["bounding"] for group in inside["groups"] if group["title"]]
    for one, x, y, w, h in boxes:
        assert any(
            left <= x and top <= y - 30 and x + w <= left + r and y + h <= top + b for left, top, r, b in frames
        ), one


def make_tiny(page) -> None:
    """The text encoder is the tiny one, sizes are what a CPU can do."""
    page.use_tiny_text_encoder(load(twin(MAIN)))
    page.set_values(TINY_VALUES)


def test_it_opens_so_that_it_can_be_read(page):
    page.open()
    for width, height in WINDOWS:
        page.tab.set_viewport_size({"width": width, "height": height})
        page.tab.wait_for_timeout(500)
        page.open_template(MAIN.stem, load(MAIN))
        page.tab.wait_for_function("app.canvas.ds.scale != 1")
        page.tab.wait_for_function("document.querySelectorAll('.comfy-markdown .tiptap').length > 0")
        assert page.tab.evaluate("app.graph.nodes.length") <= 7
        fonts = page.tab.evaluate(FONTS)
        assert len(fonts["written"]) >= 2, "the prompt and the note"
        assert min(fonts["drawn"], *fonts["written"]) >= SMALLEST, (width, fonts)
        assert not overlaps(page)
        assert page.missing_nodes() == [] == page.nodes_in_error()
    page.tab.wait_for_timeout(1000)
    assert not page.tab.get_by_text("Missing Models").is_visible(), "the loader fetches what is missing"


def test_run_gives_a_video_and_covers_nothing(page, tmp_path):
    page.server.provide_models(*model_files(load(twin(MAIN))))
    page.tab.set_viewport_size({"width": 1366, "height": 625})
    page.open().open_template(MAIN.stem, load(MAIN))
    make_tiny(page)
    first = seed(page)
    result = page.wait_for_result(page.press_run())
    (video,) = (probe(path) for path in result.files if path.suffix == ".mp4")
    assert (video.width, video.height, video.frames, video.has_audio) == (64, 96, 17, True)
    assert not overlaps(page)
    page.tab.screenshot(path=str(tmp_path / "done.png"))
    assert seed(page) != first, "a second press of Run draws anew"


def test_the_app_runs(page, tmp_path):
    page.server.provide_models(*model_files(load(twin(MAIN))))
    page.open().open_template(APP.name.removesuffix(".json"), load(APP))
    for label in ("Your picture", "The dance", "Who dances, where and how", "Fast (off: best)"):
        page.tab.get_by_text(label, exact=True).first.wait_for()
    make_tiny(page)
    with page.tab.expect_response(lambda r: r.url.endswith("/prompt") and r.request.method == "POST") as posted:
        page.tab.get_by_test_id("linear-run-button").get_by_role("button", name="Run", exact=True).click()
    result = page.server.wait(posted.value.json()["prompt_id"], 300)
    assert result.succeeded, result.error
    page.tab.get_by_test_id("linear-video-output").first.wait_for(timeout=30_000)
    page.tab.screenshot(path=str(tmp_path / "app.png"))


def test_the_box_is_found_and_inserted(page):
    for words in ("dance", "SteadyDancer"):
        page.open()
        page.tab.evaluate("app.graph.clear()")
        page.tab.evaluate("app.extensionManager.command.execute('Workspace.SearchBox.Toggle')")
        page.tab.get_by_role("combobox", name="Add a node...").fill(words)
        page.tab.get_by_test_id("result-item").filter(has_text=BLUEPRINT.stem).first.click()
        page.tab.keyboard.press("Enter")
        page.tab.mouse.click(700, 500)
        page.tab.wait_for_function("app.graph.nodes.length === 1 && app.graph.nodes[0].subgraph")
        assert page.missing_nodes() == []
        names = page.tab.evaluate("app.graph.nodes[0].inputs.map((slot) => slot.label ?? slot.name)")
        assert names[:3] == ["picture", "dance", "prompt"]


def seed(page) -> int:
    """The seed that the next press of Run sends."""
    (noise,) = (node for node in page.export().values() if node["class_type"] == "RandomNoise")
    return noise["inputs"]["noise_seed"]
