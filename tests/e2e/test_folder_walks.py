"""How often model folders are walked: once a prompt at most, and for /object_info only by ComfyUI itself."""

import os
import time

import pytest
from support import tiny


@pytest.fixture
def walks(comfyui, monkeypatch, tmp_path):
    """walks() → the folders walked since the last call. A large folder of models, settled for a while."""
    import folder_paths
    from steadydancer.loaders.download import listing

    folder = tmp_path / "diffusion_models"
    for name in ("a", "b", "b/c"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(200):
        (folder / "a" / f"other-{number}.safetensors").touch()
    then = time.time() - 60
    for path in (folder, *folder.iterdir(), folder / "b" / "c"):
        os.utime(path, (then, then))
    kinds = folder_paths.folder_names_and_paths
    paths = kinds["diffusion_models"][0]
    before = list(paths)
    paths[:] = [str(folder)]
    seen = []
    walk = os.walk

    def counted(top, *args, **kwargs):
        seen.append(str(top))
        return walk(top, *args, **kwargs)

    listing.listings.clear()
    monkeypatch.setattr(os, "walk", counted)

    def take():
        found = seen[:]
        seen.clear()
        return found

    take.folder = folder
    yield take
    paths[:] = before


def run_of_a_prompt():
    """What ComfyUI calls of loader, selector and planner in one prompt: fingerprints, then what they execute."""
    from steadydancer.nodes.loaders import SteadyDancerDownload, SteadyDancerLoader
    from steadydancer.nodes.planner import USUAL, SteadyDancerVRAMPlanner
    from steadydancer.nodes.selector import SteadyDancerVariantSelector
    from steadydancer.services import loading

    selector = {"family": "steadydancer", "budget": 0.0, "preference": "auto", "generation": "auto"}
    found = [
        SteadyDancerVariantSelector.fingerprint_inputs(**selector)[0],
        SteadyDancerLoader.fingerprint_inputs("auto", False)[0],
        SteadyDancerVRAMPlanner.fingerprint_inputs(**USUAL)[2],
        SteadyDancerVariantSelector.execute(**selector).args[0],
        SteadyDancerVRAMPlanner.plan(**USUAL).variant,
        loading.choice("steadydancer").variant,
    ]
    SteadyDancerDownload.fingerprint_inputs("steadydancer")
    return set(found)


def test_a_prompt_walks_each_folder_once_and_the_next_one_none(walks):
    assert run_of_a_prompt() == {"steadydancer/fp8"}
    found = walks()
    assert str(walks.folder) in found and len(found) == len(set(found)), "once each"
    run_of_a_prompt()
    assert walks() == []


@pytest.mark.parametrize("where", ["", "a", "b/c", "new", "b/c/new"])
def test_a_file_that_came_or_went_is_seen(walks, where):
    """Among hundreds, in a subfolder, in a new one: a folder's time says it."""
    assert run_of_a_prompt() == {"steadydancer/fp8"}
    folder = walks.folder / where
    folder.mkdir(exist_ok=True)
    path = tiny.write_steadydancer(folder / "Wan21_I2V_SteadyDancer_fp16.safetensors", "fp16")
    assert run_of_a_prompt() == {"steadydancer/fp16"}
    path.unlink()
    assert run_of_a_prompt() == {"steadydancer/fp8"}


def test_object_info_walks_nothing_of_ours(walks):
    """Schemas use ComfyUI's lists, which remembers them."""
    import asyncio

    import folder_paths
    import steadydancer

    extension = asyncio.run(steadydancer.comfy_entrypoint())
    nodes = asyncio.run(extension.get_node_list())
    walks()
    callers = []
    search = folder_paths.recursive_search

    def by_comfyui(directory, *args, **kwargs):
        callers.append(str(directory))
        return search(directory, *args, **kwargs)

    def described():
        with folder_paths.cache_helper:
            return [node.GET_NODE_INFO_V1() for node in nodes]

    patch = pytest.MonkeyPatch()
    patch.setattr(folder_paths, "recursive_search", by_comfyui)
    try:
        assert len(described()) == len(nodes) > 20
        assert str(walks.folder) in callers and set(walks()) <= set(callers), "every walk is ComfyUI's own"
        described()
        assert walks() == [], "and the next time it remembers"
    finally:
        patch.undo()
