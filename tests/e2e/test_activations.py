"""The dry runs behind the planner's table, against what torch's profiler sees ComfyUI's networks allocate on the CPU.

A sample: `tools/activations.py --check` takes ten minutes for all shapes.
"""

import pytest
import torch

SHAPES = [(3, 30, 52), (9, 30, 52), (5, 52, 30)]


@pytest.fixture(scope="module")
def dry(comfyui):
    from steadydancer.tools import activations

    return activations


@pytest.mark.parametrize(
    ("size", "dtype", "shape"),
    [
        *(("TINY", torch.float32, shape) for shape in SHAPES),
        *(("MIDDLE", torch.bfloat16, shape) for shape in SHAPES[:1]),
    ],
    ids=str,
)
@pytest.mark.parametrize("architecture", ["steadydancer", "wan-14b-i2v"])
def test_one_evaluation(dry, architecture, size, dtype, shape):
    predicted, measured = dry.check_diffusion(architecture, getattr(dry, size), shape, 1, dtype)
    assert predicted == pytest.approx(measured, rel=0.05)


@pytest.mark.parametrize(("direction", "shape"), [("decode", (3, 16, 20)), ("encode", (3, 24, 32))], ids=str)
def test_the_vae(dry, direction, shape):
    predicted, measured = dry.check_vae(direction, shape, 64)
    assert predicted == pytest.approx(measured, rel=0.05)


def test_the_table_is_what_the_dry_run_of_this_comfyui_gives(dry):
    import comfyui_version

    table = dry.TABLES / f"{comfyui_version.__version__}.toml"
    assert table.exists(), "count this ComfyUI: tools/activations.py --write"
    stored = table.read_text("utf-8")
    assert f'comfyui = "{comfyui_version.__version__}"' in stored
    assert dry.diffusion_line("wan-14b-t2v", torch.bfloat16, "fused") in stored
    assert dry.vae_line("encode", torch.bfloat16) in stored


def test_a_storage_counts_until_its_last_view_is_gone(dry):
    held = torch.empty(1000, device="meta")
    with dry.StorageTracker([held]) as tracker:
        a = held + 1
        b = a.view(10, 100)
        del a
        assert tracker.live == 4000
        c = b * 2
        del b
    assert tracker.live == 4000 and tracker.peak == 8000
    del c
    assert tracker.live == 0
