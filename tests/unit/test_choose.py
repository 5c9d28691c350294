"""The choice of a variant: the rule, a line a card that is checked in, what the disk and the environment change in it."""

from dataclasses import replace
from pathlib import Path

import pytest
from steadydancer import cli
from steadydancer.catalog.catalog import catalogue
from steadydancer.commands.select import table
from steadydancer.machine import gpus
from steadydancer.machine.card import computer
from steadydancer.planning import choose
from steadydancer.planning.estimate import OFFLOADED
from steadydancer.planning.job import job_for, usual_job
from steadydancer.planning.planner import plan_job
from steadydancer.planning.solve import Host

VERDICTS = Path(__file__).parent / "verdicts.txt"
CARDS = list(gpus.cards())
SIZES = {"480p": (832, 480), "576p": (1024, 576), "720p": (1280, 720)}


def having(*ids: str):
    """find() on a disk that has the diffusion files of these variants, and no other."""
    names = [name if "/" in name else f"steadydancer/{name}" for name in ids]
    files = {file for name in names for file in catalogue().variants[name].diffusion}
    return lambda file: Path("here") if file in files else None


def chosen(gpu, *here: str, **given) -> choose.Choice:
    card = gpus.card(gpu) if isinstance(gpu, str) else gpu
    return choose.choose(given.pop("family", "steadydancer"), card, having(*here), **given)


def test_a_line_a_card(request):
    """What auto is, and how it runs at three sizes; written by `dev.py test unit -- --update-snapshot`."""
    lines = []
    for card in CARDS:
        plans = {name: plan_job(job_for("auto", *size, 81), card) for name, size in SIZES.items()}
        assert len({plan.variant for plan in plans.values()}) == 1
        cells = [f"{name} {plan.verdict}, {plan.kept} of {plan.blocks}" for name, plan in plans.items()]
        lines.append(f"{card.name}: {plans['480p'].variant}; {'; '.join(cells)}\n")
    if request.config.getoption("--update-snapshot"):
        VERDICTS.write_text("".join(lines), "utf-8")
    assert len(lines) >= 24
    assert "".join(lines) == VERDICTS.read_text("utf-8")


@pytest.mark.parametrize("family", choose.families())
@pytest.mark.parametrize("preference", choose.PREFERENCES)
def test_the_choice_keeps_the_rule(family, preference):
    """Every preference, on every card, against all plans there are."""
    wants = choose.table()["preferences"][preference]
    for card in CARDS:
        choice = chosen(card, family=family, preference=preference)
        plans = {variant: plan_job(replace(usual_job(variant.id)), card, host=Host(ram=choose.USUAL_RAM))
                 for variant in choose.variants(family)}  # fmt: skip
        good = [variant for variant in plans if plans[variant].fits and choose.error(variant) <= wants["error"]]
        assert good and catalogue().variants[choice.variant] in good
        fastest = min(plans[variant].seconds for variant in good)
        near = [v for v in good if plans[v].seconds <= (1 + wants["slower"] / 100) * fastest]
        ours = catalogue().variants[choice.variant]
        if preference == "smallest":
            assert choose.weights(ours) == min(map(choose.weights, good))
        else:
            assert ours in near and all(choose.error(ours) <= choose.error(other) for other in near)
        assert f"{choose.weights(ours) / 1e9:.1f} GB" in choice.reason
        assert ("all of it on the card" in choice.reason) == (choice.plan.kept == choice.plan.blocks)


def test_the_rule_on_known_cards():
    assert chosen("RTX 4090").variant == "steadydancer/Q8_0", "as fast as fp8, which is multiplied in 16 bits"
    assert chosen("RTX 4080 SUPER").variant == "steadydancer/Q6_K"
    assert chosen("A100 80GB").variant == "steadydancer/fp16"
    assert chosen("RTX 4090", family="qwen-image-edit-2511").variant == "qwen-image-edit-2511/fp8mixed"
    assert chosen("RTX 3090", family="qwen-image-edit-2511").variant == "qwen-image-edit-2511/gguf-Q8_0"
    assert chosen("RTX 4090", preference="smallest").variant == "steadydancer/Q2_K"


def test_of_equally_accurate_files_the_smaller_is_downloaded():
    """float32 shards are computed in 16 bits, so the fp16 file says the same in half the bytes."""
    first, second = choose.variants("steadydancer")[:2]
    assert (first.id, second.id) == ("steadydancer/fp16", "steadydancer/official")
    assert choose.error(first) == choose.error(second) and choose.weights(first) < choose.weights(second)
    assert chosen("H200").variant == "steadydancer/fp16"


def test_more_memory_is_never_less_accurate_for_quality():
    for sm in (86, 89):
        chosen_errors = []
        for gb in range(12, 145):
            card = gpus.as_like("a card", gb * 10**9, gb * 10**9, sm)
            choice = chosen(card, preference="quality")
            chosen_errors.append(choose.error(catalogue().variants[choice.variant]))
        assert chosen_errors == sorted(chosen_errors, reverse=True)


@pytest.mark.parametrize(
    ("gpu", "here", "variant"),
    [
        ("RTX 4090", [], "Q8_0"),
        ("RTX 4090", ["Q4_K_M"], "Q4_K_M"),  # good enough, and no download
        ("RTX 4090", ["Q4_K_M", "fp8"], "fp8"),  # the more accurate of two that are here
        ("RTX 4090", ["Q4_K_M", "Q8_0", "fp16"], "Q8_0"),  # the first choice, if it is here
        ("RTX 4090", ["fp16"], "fp16"),  # 6 % slower, and 17 GB are not fetched
        ("RTX 4090", ["Q2_K"], "Q8_0"),  # too coarse to be taken for good
        ("RTX 4090", ["Q3_K_M"], "Q8_0"),
        ("A100 80GB", ["fp8"], "fp8"),  # what a pod's image was made with
        ("RTX 4060", ["fp8"], "fp8"),
        ("RTX 4060", ["fp16"], "Q8_0"),  # what is not on the card does not fit the RAM
        ("H100", ["official"], "official"),
    ],
)
def test_what_is_here_and_good_enough_wins(gpu, here, variant):
    choice = chosen(gpu, *here)
    assert choice.variant == f"steadydancer/{variant}"
    assert ("it is already here" in choice.reason) == (variant in here)
    first = chosen(gpu).variant
    assert ("would be the first choice" in choice.reason) == (variant in here and choice.variant != first)


def test_a_preference_says_how_good_what_is_here_must_be():
    assert chosen("RTX 4090", "Q4_K_M", preference="quality").variant == "steadydancer/fp16"
    assert chosen("RTX 4090", "Q8_0", preference="quality").variant == "steadydancer/Q8_0"
    assert chosen("RTX 4090", "Q3_K_S", preference="speed").variant == "steadydancer/Q3_K_S"
    assert chosen("RTX 4090", "fp16", preference="speed").variant == "steadydancer/Q8_0", "6 % slower is not speed"
    assert chosen("RTX 4090", "Q6_K", preference="smallest").variant == "steadydancer/Q6_K", "no download is smaller"


def test_without_a_gpu_it_is_what_most_cards_can_take():
    for family, usual in (("steadydancer", "fp8"), ("qwen-image-edit-2511", "fp8mixed")):
        choice = chosen(computer(), family=family)
        assert choice.variant == f"{family}/{usual}" and "there is no GPU to choose for" in choice.reason
    assert chosen(computer(), "Q5_K_M", "Q4_0").variant == "steadydancer/Q5_K_M"
    assert chosen(computer(), "Q2_K").variant == "steadydancer/fp8"


def test_a_small_computer_gets_a_small_variant():
    """What does not stay on the card waits in RAM."""
    sizes = [chosen("RTX 4060", host=Host(ram=gib << 30)).plan.ram for gib in (20, 24, 32, 64)]
    assert sizes == sorted(sizes) and sizes[0] <= 20 << 30 < sizes[-1]
    tight = chosen("RTX 4060", host=Host(ram=17 << 30))
    assert tight.plan.fits and 10 < choose.error(catalogue().variants[tight.variant]) <= 15, "coarse, but no ruin"
    poor = chosen("RTX 4060", host=Host(ram=8 << 30))
    assert poor.variant == "steadydancer/Q4_0", "rather slow than ruined"
    here = chosen("RTX 4060", "fp8", "Q2_K", host=Host(ram=8 << 30))
    assert here.variant == "steadydancer/fp8" and here.reason.endswith("It is already here.")
    assert not poor.plan.fits and "nothing fits" in poor.reason and "8 GB" in poor.reason.replace("9 GB", "8 GB")


def test_free_disk_does_not_change_the_choice():
    """A download that was half done has taken half of it."""
    assert chosen("RTX 4090", host=Host(disk=1)) == chosen("RTX 4090")


def test_full_takes_a_coarser_type_before_it_gives_up(monkeypatch):
    card = replace(gpus.card("RTX 3060"), free=11_000_000_000)
    assert chosen(card).plan.kept < 40
    monkeypatch.setenv("GPU_MEMORY_MODE", "full")
    choice = chosen(card)
    assert choice.plan.kept == 40 and "all of it on the card" in choice.reason
    assert choose.error(catalogue().variants[choice.variant]) > 10
    refused = chosen("RTX 3060 Ti")
    assert "Nothing of steadydancer fits whole into 7.7 GB" in refused.refusal
    assert "Set GPU_MEMORY_MODE to auto" in refused.refusal
    monkeypatch.setenv("STEADYDANCER_GPU_MEMORY_MODE", "sequential_cpu_offload")
    assert chosen("H100").plan.kept == 0


def test_flags_of_the_server_count_for_the_choice_as_for_the_plan(monkeypatch):
    monkeypatch.setenv("COMFYUI_ARGS", "--reserve-vram 12")
    assert chosen("RTX 4090").plan.card.free == gpus.card("RTX 4090").free - 12 * gpus.GIB
    monkeypatch.setenv("COMFYUI_ARGS", "--novram")
    assert chosen("RTX 4090").plan.kept == 0
    monkeypatch.setenv("COMFYUI_ARGS", "--highvram")
    assert "Start ComfyUI without --highvram" in chosen("RTX 4060").refusal


def test_the_pods_tier(monkeypatch):
    assert chosen("RTX 5090", preference="balanced") == chosen("RTX 5090")
    monkeypatch.setenv("GPU_TIER", "datacenter")
    assert chosen("RTX 4090").variant == "steadydancer/fp16"
    assert chosen("RTX 4090", preference="balanced").variant == "steadydancer/Q8_0"
    monkeypatch.setenv("GPU_TIER", "toaster")
    with pytest.raises(ValueError, match="GPU_TIER is 'toaster', which is not a valid value. Set it to one of auto"):
        chosen("H100")


def test_a_variant_that_the_environment_names_is_taken_where_the_node_says_auto(monkeypatch):
    monkeypatch.setenv("STEADYDANCER_VARIANT", "gguf")
    assert chosen("RTX 4090").variant == "steadydancer/Q4_K_M"
    monkeypatch.setenv("STEADYDANCER_GGUF_MODEL", "q5_k_m")
    for card in ("RTX 4090", computer()):
        assert chosen(card, "fp8").variant == "steadydancer/Q5_K_M", "a wish of the pod's is stronger than the disk"
    assert chosen("RTX 4090", preference="balanced").variant == "steadydancer/Q8_0"
    assert chosen("RTX 4090", family="qwen-image-edit-2511").variant == "qwen-image-edit-2511/fp8mixed"
    monkeypatch.setenv("STEADYDANCER_GGUF_MODEL", "Q8")
    assert chosen("RTX 4090").variant == "steadydancer/Q8_0"
    monkeypatch.setenv("STEADYDANCER_GGUF_MODEL", "q9")
    with pytest.raises(ValueError, match="STEADYDANCER_GGUF_MODEL is 'q9', .*Q8_0"):
        chosen("RTX 4090")
    monkeypatch.setenv("STEADYDANCER_VARIANT", "Auto")
    assert chosen("RTX 4090").variant == "steadydancer/Q8_0"
    monkeypatch.setenv("STEADYDANCER_VARIANT", "fp32")
    with pytest.raises(ValueError, match="STEADYDANCER_VARIANT is 'fp32'"):
        chosen("RTX 4090")


def test_streaming_has_one_price():
    """In the plan as in the choice: 15 % of a block's time, and nothing else."""
    plan = chosen("RTX 4060").plan
    waiting = (plan.blocks - plan.kept) / plan.blocks
    whole = choose.choose("steadydancer", replace(plan.card, free=200 * 10**9)).plan
    assert plan.phase("sample").seconds / whole.phase("sample").seconds == pytest.approx(
        1 + (OFFLOADED - 1) * waiting, rel=0.02
    )


def test_our_own_family_comes_first():
    """A combo without a default shows its first entry, in every workflow that is built from now on."""
    assert choose.families() == ["steadydancer", "qwen-image-edit-2511"]


def test_an_unknown_family_is_told_the_known_ones():
    with pytest.raises(ValueError, match="'dwpose' has no variants to choose from. Choose one of .*steadydancer"):
        chosen("RTX 4090", family="dwpose")


def test_the_command_prints_a_choice_or_the_table(capsys, tmp_path):
    where = ["--models-dir", str(tmp_path / "models")]
    assert cli.main(["select", "--gpu", "RTX 4090", *where]) == 0
    variant, reason = capsys.readouterr().out.splitlines()
    assert (variant, reason) == (chosen("RTX 4090").variant, chosen("RTX 4090").reason)
    arguments = ["select", "--all-gpus", "--family", "qwen-image-edit-2511", "--preference", "quality", *where]
    assert cli.main(arguments) == 0
    assert capsys.readouterr().out.splitlines() == table("qwen-image-edit-2511", "quality", CARDS)


def test_the_command_wants_one_card_or_all_and_only_known_ones(capsys):
    for arguments in ([], ["--gpu", "RTX 4090", "--all-gpus"], ["--gpu", "RTX 4090", "--vram", "24"]):
        with pytest.raises(SystemExit, match="2"):
            cli.main(["select", *arguments])
    for arguments, what in (
        (["--gpu", "RTX 9090"], "'RTX 9090' is no card of the table. Choose one of"),
        (["--gpu", "RTX 4090", "--sm", "89"], "--sm says more about --vram"),
        (["--vram", "0.5"], "too small"),
        (["--vram", "nan"], "No card has nan GB"),
        (["--vram", "inf"], "No card has inf GB"),
    ):
        assert cli.main(["select", *arguments]) == 1
        assert what in capsys.readouterr().err


def test_any_other_card_by_its_memory(capsys):
    for gib, sm in ((16, 89), (24, 86), (80, 90)):
        listed = next(card for card in CARDS if card.total == gib * gpus.GIB and card.sm == sm)
        found = gpus.unlisted(gib, sm)
        assert (found.total, found.free, found.sm, found.price) == (listed.total, listed.free, sm, None)
        assert chosen(found).variant == chosen(listed).variant
    assert gpus.unlisted(24, 86).fp8 == 0 < gpus.unlisted(24, 89).fp8
    assert cli.main(["plan", "--vram", "20", "--sm", "89", "--variant", "fp8"]) == 0
    assert "on 20 GB card: fits with changes" in capsys.readouterr().out
