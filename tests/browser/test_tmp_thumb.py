from support.workflows import EXAMPLES, load


def test_thumb(page):
    file = next(f for f in EXAMPLES if f.stem == "convert_model")
    page.open_template(file.stem, load(file))
    page.thumbnail(file.with_suffix(".jpg"))
