"""Sizes and pictures of TurboDiffusion's image to video against the published rule and torchvision's filter."""

import json

import pytest
import torch
from steadydancer.dancer.conditioning import TURBO_STRETCH, fitted_size, resize
from support import ROOT

AREA = 1280 * 720


@pytest.mark.parametrize(
    ("picture", "area", "size"),
    [
        ((1920, 1080), AREA, (1280, 720)),
        ((576, 1024), AREA, (720, 1280)),
        ((1000, 1000), AREA, (960, 960)),
        ((800, 500), AREA, (1216, 752)),  # 1214.3 × 758.9: the first side goes up, and would go down for SteadyDancer
        ((864, 1184), 832 * 480, (544, 736)),  # 539.8 × 739.8
    ],
)
def test_sides_are_the_nearest_multiples_of_16(picture, area, size):
    assert fitted_size(*picture, area, nearest=True) == size


@pytest.mark.parametrize("size", [(96, 64), (256, 304)], ids=["smaller", "larger"])
def test_the_filter_is_the_published_one(size):
    """The published code resizes 8-bit pictures with torchvision's default, antialiased bilinear."""
    functional = pytest.importorskip("torchvision.transforms.v2.functional")
    picture = torch.randint(0, 256, (1, 3, 150, 200), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    expected = functional.resize(picture, (size[1], size[0]), antialias=True).movedim(1, -1) / 255
    found = resize(picture.movedim(1, -1) / 255, *size, TURBO_STRETCH)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1.01 / 255  # theirs is rounded to 8 bits again
    assert (resize(picture.movedim(1, -1) / 255, *size, "stretch") - expected).abs().max() > 10 / 255


def test_the_template_takes_it():
    prompt = json.loads((ROOT / "example_workflows" / "api" / "turbo_i2v.json").read_text("utf-8"))
    fits = [node["inputs"]["fit"] for node in prompt.values() if node["class_type"] == "SteadyDancerFitImage"]
    assert fits == [TURBO_STRETCH]
