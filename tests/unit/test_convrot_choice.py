"""int8_convrot, which is made here: taken by auto where card, torch and disk go along, offered with its price, planned by its header."""

from dataclasses import replace
from pathlib import Path

import pytest
from steadydancer.catalog.catalog import catalogue
from steadydancer.loaders.download.fetch import published_file
from steadydancer.loaders.download.places import Places
from steadydancer.machine import gpus
from steadydancer.machine.card import computer
from steadydancer.planning import choose
from steadydancer.planning.estimate import multiplies_convrot
from steadydancer.planning.job import job_for, usual_job
from steadydancer.planning.model_sizes import model_of
from steadydancer.planning.planner import plan_job
from steadydancer.planning.solve import Host
from support import tiny

CONVROT = "steadydancer/int8_convrot"
FAST = ("RTX 2080 Ti", "T4", "RTX 3090", "A100 80GB", "RTX 4090", "L40S", "H100")
OTHER = ("RTX 5090", "RTX 5080", "RTX PRO 6000")


def card(name: str, cuda_13: bool = True):
    """A card of the table in a machine whose torch is for CUDA 13, or is not."""
    return replace(gpus.card(name), fused=cuda_13)


def having(*variants: str):
    files = {file for name in variants for file in catalogue().variants[f"steadydancer/{name}"].diffusion}
    return lambda file: Path("here") if file in files else None


def plans(card):
    return {v.id: plan_job(usual_job(v.id), card, host=Host(ram=64 << 30)) for v in choose.variants("steadydancer")}


def chosen(card, *here, **given):
    return choose.choose("steadydancer", card, having(*here), host=Host(ram=64 << 30), **given)


@pytest.mark.parametrize("name", FAST)
def test_auto_makes_it_of_a_file_that_is_here_where_the_card_is_fast_with_it(name):
    choice = chosen(card(name), "fp16")
    assert choice.variant == CONVROT and "it is made here of fp16, once" in choice.reason
    assert chosen(card(name), "int8_convrot").variant == CONVROT
    assert "it is already here" in chosen(card(name), "int8_convrot").reason


@pytest.mark.parametrize("name", [*FAST, *OTHER])
@pytest.mark.parametrize("preference", choose.PREFERENCES)
def test_no_other_machine_takes_it_whatever_is_here(name, preference):
    machines = [card(name, cuda_13=False)] + ([card(name)] if name in OTHER else [])
    for machine in machines:
        for here in (["int8_convrot"], ["fp16"], ["int8_convrot", "fp16"], []):
            choice = chosen(machine, *here, preference=preference)
            assert choice.variant != CONVROT and "int8_convrot" not in choice.reason
    assert chosen(computer(), "int8_convrot").variant == "steadydancer/fp8"


@pytest.mark.parametrize("name", FAST)
def test_where_nothing_is_here_it_is_offered_with_its_price_and_not_taken(name):
    choice = chosen(card(name))
    assert choice.variant != CONVROT
    saved = 1 - plans(card(name))[CONVROT].seconds / plans(card(name))[choice.variant].seconds
    assert f"int8_convrot would take {saved:.0%} less time" in choice.reason
    assert "made here of fp16, once (32.8 GB to download: choose steadydancer/int8_convrot" in choice.reason


def test_the_environment_and_the_loader_can_name_it_anywhere(monkeypatch):
    monkeypatch.setenv("STEADYDANCER_VARIANT", "int8_convrot")
    assert chosen(card("RTX 5090", cuda_13=False)).variant == CONVROT


def test_the_planner_halves_the_products_and_not_the_attention():
    fast, slow, plain = card("RTX 4090"), card("RTX 4090", cuda_13=False), plans(card("RTX 4090"))
    assert multiplies_convrot(fast) and not multiplies_convrot(slow)
    sample = {name: plan.phase("sample").seconds for name, plan in plain.items()}
    assert 0.5 < sample[CONVROT] / sample["steadydancer/fp8"] < 0.8
    assert plans(slow)[CONVROT].phase("sample").seconds > 1.5 * plans(slow)["steadydancer/fp8"].phase("sample").seconds
    transient = [plans(each)[CONVROT].phase("sample").transient for each in (fast, slow)]
    assert transient[0] < transient[1] and plans(fast)[CONVROT].kept == 40


def test_a_plan_says_what_must_be_downloaded_to_make_it():
    job = job_for(CONVROT, 832, 480, 81)
    nothing, source, itself = (
        plan_job(job, card("RTX 4090"), find).disk for find in (having(), having("fp16"), having("int8_convrot"))
    )
    made, of = (catalogue().files[f"steadydancer-{name}"].size for name in ("int8_convrot", "fp16"))
    assert nothing - source == of and source - itself == made


def test_its_header_says_what_it_is(tmp_path):
    from steadydancer.convert.source import open_source
    from steadydancer.convert.write import convert

    source = open_source(tiny.write_steadydancer(tmp_path / "x_fp16.safetensors", "fp16"))
    path = convert(source, tmp_path / "x.safetensors", "int8_convrot", lambda *_: None, lambda: False).path
    by_header = model_of(CONVROT, [path])
    assert by_header.precision == "int8_convrot" and by_header.multiplies and by_header.blocks == 2
    assert model_of(CONVROT, []).precision == "int8_convrot"
    fp8 = convert(source, tmp_path / "y.safetensors", "fp8_scaled", lambda *_: None, lambda: False).path
    assert model_of(str(fp8), [fp8]).precision == "fp8" and model_of(str(fp8), [fp8]).multiplies


def test_what_must_be_fetched_for_it(tmp_path):
    file, source = (catalogue().files[f"steadydancer-{name}"] for name in ("int8_convrot", "fp16"))
    folder = tmp_path / "diffusion_models"
    folder.mkdir()
    assert published_file(file, Places(tmp_path)) is source and published_file(source, Places(tmp_path)) is source
    tiny.write_steadydancer(folder / file.name, "fp16")
    assert published_file(file, Places(tmp_path)) is file
    (folder / file.name).write_bytes((folder / file.name).read_bytes()[:-5])
    assert published_file(file, Places(tmp_path)) is source, "a damaged one is made again"
