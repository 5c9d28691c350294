"""What a user reads on the page where a node fails."""

import pytest

BUILD = """(inside) => {
  app.graph.clear();
  const made = ["LoadVideo", "SteadyDancerDrivingVideo", "PreviewImage"].map((type, place) => {
    const node = LiteGraph.createNode(type);
    app.graph.add(node);
    node.pos = [100 + 450 * place, 150];
    return node;
  });
  made[0].widgets.find((widget) => widget.name === "file").value = "steadydancer_example_dance.mp4";
  made[1].widgets.find((widget) => widget.name === "start").value = 500;
  made[0].connect(0, made[1], 0);
  made[1].connect(0, made[2], 0);
  if (inside) app.graph.convertToSubgraph(new Set([made[1]]));
}"""


@pytest.mark.parametrize("inside", [False, True], ids=["a node", "a node in a subgraph"])
def test_the_sentence_stands_in_the_box_that_failed(page, inside):
    page.open().tab.evaluate(BUILD, inside)
    result = page.server.wait(page.press_run())
    assert "nothing is left after 500.0 s" in result.error
    page.tab.get_by_text("Choose an earlier start.").first.wait_for()
