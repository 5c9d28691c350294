"""One question, one answer: everything that says `auto`, on every card, at three sizes, on every disk."""

import argparse
import json

import pytest
from support.safetensors_header import write_hollow
from support.tiny_gguf import write_steadydancer_gguf

SIZES = ((832, 480), (1024, 576), (1280, 720))
MARK = "steadydancer/"


@pytest.fixture(scope="module")
def disk(comfyui, tmp_path_factory):
    """disk(variant) → a models folder that ComfyUI and the commands look at, with this variant's diffusion files or none."""
    import folder_paths
    from steadydancer.catalog.catalog import catalogue

    kept = folder_paths.folder_names_and_paths["diffusion_models"][0]
    before = list(kept)
    gguf = write_steadydancer_gguf(tmp_path_factory.mktemp("gguf") / "any.gguf", "Q4_K").read_bytes()

    def make(variant):
        models = tmp_path_factory.mktemp("disk") / "models"
        folder = models / "diffusion_models"
        folder.mkdir(parents=True)
        for id in catalogue().variants[variant].diffusion if variant else ():
            file = catalogue().files[id]
            if file.format == "gguf":
                (folder / f"Wan21_I2V_SteadyDancer_fp16-{file.precision}_fix_5d_tensor.gguf").write_bytes(gguf)
                continue
            path = folder / file.name
            path.parent.mkdir(exist_ok=True)
            size, blocks = file.size // 40, range(40)
            if len(catalogue().variants[variant].diffusion) > 1:
                size, blocks = file.size // 6, range(6 * int(id[-1]) - 6, min(40, 6 * int(id[-1])))
            write_hollow(path, {f"blocks.{i}.ffn.0.weight": ("F16", (size // 2,), size // 2 * 2) for i in blocks})
        kept[:] = [str(folder)]
        return models

    yield make
    kept[:] = before


@pytest.fixture
def ask(comfyui, monkeypatch, tmp_path, capsys):
    """ask(card, models) → {who: (variant, reason)}: loader, selector, planner, select, plan and download."""
    import folder_paths
    from steadydancer import cli
    from steadydancer.commands import download
    from steadydancer.nodes.planner import USUAL, SteadyDancerVRAMPlanner
    from steadydancer.nodes.selector import SteadyDancerVariantSelector
    from steadydancer.planning.solve import Host
    from steadydancer.services import loading, this_machine

    user = tmp_path / "user"
    monkeypatch.setattr(this_machine, "host", Host)
    monkeypatch.setattr(folder_paths, "get_user_directory", lambda: str(user))

    def command(*arguments):
        assert cli.main([*arguments]) in (0, 3)
        return capsys.readouterr().out

    def answers(card, models):
        monkeypatch.setattr(this_machine, "present_card", lambda: card)
        found = {}
        variant, line = loading.chosen_variant("auto", None)
        output = SteadyDancerVariantSelector.execute("steadydancer", 0.0, "auto", "auto")
        found["selector"] = tuple(output.args)
        said, reason = line.removeprefix(f"{variant}: "), output.args[1]
        found["loader"] = variant, reason if reason.endswith(said) else said  # the line leaves out the precision
        where = ["--models-dir", str(models), "--user-dir", str(user)]
        for width, height in SIZES:
            plan = SteadyDancerVRAMPlanner.plan(**{**USUAL, "width": width, "height": height})
            found[f"planner {height}"] = plan.variant, plan.reason
            text = command("plan", "--gpu", card.name, "--size", f"{width}x{height}", "--json", *where)
            found[f"plan {height}"] = json.loads(text)["job"]["variant"], json.loads(text)["reason"]
        found["select"] = tuple(command("select", "--gpu", card.name, *where).splitlines())
        args = argparse.Namespace(gpu=card.name, vram=None, sm=None)
        variant = download.chosen_variant(
            args, download.models(argparse.Namespace(models_dir=models, comfyui=None)), "steadydancer"
        )
        line = capsys.readouterr().out.strip()
        found["download"] = variant, line.partition(f"{variant} for {card.name}: ")[2]
        return found

    return answers


def variants():
    from steadydancer.catalog.catalog import catalogue

    return [None, *(name for name in catalogue().variants if name.startswith(MARK))]


@pytest.mark.parametrize("here", variants(), ids=lambda name: (name or "nothing").removeprefix(MARK))
def test_everybody_names_the_same_variant_for_the_same_reason(ask, disk, here):
    from steadydancer.machine import gpus

    models, chosen = disk(here), []
    cards = gpus.cards()
    assert len(cards) >= 24
    for card in cards:
        found = ask(card, models)
        assert len(found) == 10 and len(set(found.values())) == 1, (card.name, found)
        variant, reason = found["loader"]
        assert variant in reason or variant.removeprefix(MARK) in reason or here == f"{MARK}official"
        assert ("it is already here" in reason) == (variant == here)
        chosen.append(variant)
    if here is None:
        assert len(set(chosen)) > 2
    elif here == f"{MARK}Q2_K":
        assert here not in chosen, "too coarse"
    elif here == f"{MARK}int8_convrot":
        assert here not in chosen, "no card of the table says which CUDA its torch was made for"
    else:
        assert here in chosen or "Q3_K" in here, "it is good enough on some card"


def test_without_a_card_everybody_keeps_fp8_and_says_why(ask, disk):
    from steadydancer.machine import gpus
    from steadydancer.machine.card import computer

    none = computer(16 << 30, 8 << 30)
    patch = pytest.MonkeyPatch()
    patch.setattr(gpus, "card", lambda name: none)
    try:
        found = ask(none, disk(None))
    finally:
        patch.undo()
    assert set(found.values()) == {(f"{MARK}fp8", "there is no GPU to choose for")}


@pytest.mark.parametrize("said", ["gguf", "fp16"])
def test_a_variable_is_stronger_than_card_and_disk_everywhere(ask, disk, monkeypatch, said):
    from steadydancer.machine import gpus

    monkeypatch.setenv("STEADYDANCER_VARIANT", said)
    monkeypatch.setenv("STEADYDANCER_GGUF_MODEL", "q3_k_m")
    found = ask(gpus.card("RTX 4090"), disk(f"{MARK}fp8"))
    wanted = f"{MARK}fp16" if said == "fp16" else f"{MARK}Q3_K_M"
    assert set(found.values()) == {(wanted, "STEADYDANCER_VARIANT says so")}
