"""Each example workflow in the real page: from the templates list, by drag-in, and with Run pressed."""

import itertools

import pytest
from PIL import Image
from support.video import probe
from support.workflows import EXAMPLES, NO_RENDER, TINY_VALUES, load, model_files, twin

by_name = pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.stem)


@by_name
def test_drag_in(page, file):
    """Nothing is missing, and what the page would send is the API file beside it."""
    page.server.provide_models(*model_files(load(twin(file))))
    workflow = load(file)
    page.open().drop(file.name, workflow)
    assert page.missing_nodes() == []
    assert page.nodes_in_error() == []
    assert page.export() == load(twin(file))


@by_name
def test_template(page, file):
    """It is in the templates list with its own picture, and a click loads it."""
    page.open()
    picture = page.template(file.stem).locator("img").first
    picture.wait_for()
    element = picture.element_handle()
    page.tab.wait_for_function("(picture) => picture.complete && picture.naturalWidth > 0", arg=element)
    assert "default-template" not in picture.get_attribute("src"), f"{file.stem}.jpg was not found"
    shown = page.tab.evaluate("(picture) => [picture.naturalWidth, picture.naturalHeight]", element)
    assert tuple(shown) == Image.open(file.with_suffix(".jpg")).size
    page.open_template(file.stem, load(file))
    assert page.missing_nodes() == []


@by_name
def test_a_template_opens_so_that_it_can_be_read(page, file):
    """Fitted into a window of usual size no node lies on another, and the page draws text, which it does from 57 %."""
    page.tab.set_viewport_size({"width": 1920, "height": 1080})
    page.open().open_template(file.stem, load(file))
    page.tab.wait_for_function("app.canvas.ds.scale != 1")
    assert page.tab.evaluate("app.canvas.ds.scale * LiteGraph.NODE_TEXT_SIZE") >= 8
    boxes = page.tab.evaluate(
        "app.graph.nodes.map((node) => [node.type, ...node.getBounding()].slice(0, 5))"  # x, y, width, height
    )
    for (one, x, y, w, h), (other, x2, y2, w2, h2) in itertools.combinations(boxes, 2):
        assert x + w <= x2 or x2 + w2 <= x or y + h <= y2 or y2 + h2 <= y, f"{one} and {other}"


RENDERING = [
    f for f in EXAMPLES if f.stem not in (*NO_RENDER, "steadydancer_from_video")
]  # test_main_template.py has it


@pytest.mark.parametrize("file", RENDERING, ids=lambda file: file.stem)
def test_run(page, file, tmp_path, request):
    """Run is pressed and the result appears. The text encoder is the tiny one, sizes are what a CPU can do.

    `python dev.py test browser -- --update-thumbnails` makes the screenshot the template's picture.
    """
    workflow, prompt = load(file), load(twin(file))
    page.server.provide_models(*model_files(prompt))
    page.open().drop(file.name, workflow)
    page.use_tiny_text_encoder(prompt)
    page.set_values(TINY_VALUES)
    result = page.wait_for_result(page.press_run())
    for video in (probe(path) for path in result.files if path.suffix == ".mp4"):
        assert (video.width, video.height, video.frames) == (64, 96, 17)
        assert {"workflow", "prompt"} <= video.tags.keys(), "dragging the video back in gives the graph"
    assert page.screenshot(tmp_path / "result.png").stat().st_size > 10_000
    if request.config.getoption("--update-thumbnails"):
        page.thumbnail(file.with_suffix(".jpg"))
