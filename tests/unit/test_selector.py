"""The choice for every card, checked in; and what the environment and the disk change in it."""

from pathlib import Path

import pytest
from steadydancer import cli
from steadydancer.commands.select import table
from steadydancer.planning import selector

TABLE = Path(__file__).parent / "selector_table.txt"
CARDS = selector.cards()


def whole_table():
    """What `cli.py select --all-gpus` prints, for every family and preference."""
    lines = []
    for family in selector.families():
        for preference in selector.PREFERENCES:
            lines += [f"== {family}, {preference}", *table(family, preference)]
    return "\n".join(lines) + "\n"


def test_the_table_of_all_cards_is_the_one_checked_in(request):
    if request.config.getoption("--update-snapshot"):
        TABLE.write_text(whole_table(), "utf-8")
    assert len(CARDS) >= 12 and CARDS[0].gb < 8 and CARDS[-1].gb > 140
    assert whole_table() == TABLE.read_text("utf-8")


def test_the_command_prints_a_choice_or_the_table(capsys):
    assert cli.main(["select", "--gpu", "RTX 4090"]) == 0
    variant, reason = capsys.readouterr().out.splitlines()
    assert variant == "steadydancer/fp8" and reason == selector.select("steadydancer", selector.card("RTX 4090")).reason
    assert cli.main(["select", "--all-gpus", "--family", "qwen-image-edit-2511", "--preference", "quality"]) == 0
    assert capsys.readouterr().out.splitlines() == table("qwen-image-edit-2511", "quality")


def test_the_command_wants_one_card_or_all_and_only_known_ones(capsys):
    for arguments in ([], ["--gpu", "RTX 4090", "--all-gpus"]):
        with pytest.raises(SystemExit, match="2"):
            cli.main(["select", *arguments])
    assert cli.main(["select", "--gpu", "RTX 9090"]) == 1
    assert "'RTX 9090' is no card of the table" in capsys.readouterr().err


@pytest.mark.parametrize("family", selector.families())
@pytest.mark.parametrize("preference", selector.PREFERENCES)
def test_every_choice_fits_by_its_own_numbers(family, preference):
    for card in CARDS:
        choice = selector.select(family, card, preference)
        on_card = choice.weights - choice.streamed + choice.working
        assert on_card <= max(card.gb, choice.working) + 0.05, (card, choice)
        assert f"{choice.weights:.1f} GB" in choice.reason
        if choice.streamed:
            assert f"{choice.streamed:.1f} GB wait in RAM" in choice.reason
        assert choice == selector.select(family, card, preference)


def test_the_rules_of_the_generations():
    pick = lambda name, preference="balanced": selector.select("steadydancer", selector.card(name), preference).variant  # noqa: E731
    assert pick("RTX 4090") == "steadydancer/fp8"
    assert pick("RTX 3090") == "steadydancer/Q6_K"
    assert pick("A100 80GB") == "steadydancer/fp16"
    assert pick("H100", "quality") == "steadydancer/fp16"
    ampere_32 = selector.Card("a card of 32 GB", 32.0, 86)
    assert selector.select("steadydancer", ampere_32, "balanced").variant == "steadydancer/Q8_0"


def test_more_memory_is_never_less_accurate():
    errors = selector.rules()["formats"]
    for sm in (86, 89):
        chosen = []
        for gb in range(8, 145):
            choice = selector.select("steadydancer", selector.Card("a card", gb, sm), "quality")
            chosen.append(errors[choice.variant.rpartition("/")[2]]["error"])
        fits_whole = chosen[chosen.index(max(chosen)) :]
        assert fits_whole == sorted(fits_whole, reverse=True)


def test_a_file_that_is_here_wins_when_it_is_one_step_away():
    card = selector.card("RTX 3090")

    def choose(*here):
        return selector.select("steadydancer", card, "balanced", lambda v: v.id.rpartition("/")[2] in here)

    assert choose().variant == "steadydancer/Q6_K"
    assert choose("Q5_K_M").variant == "steadydancer/Q5_K_M" and "already here" in choose("Q5_K_M").reason
    assert choose("Q5_K_M", "Q6_K").variant == "steadydancer/Q6_K"
    assert choose("Q4_K_M").variant == "steadydancer/Q6_K"


def test_a_file_that_is_here_wins_where_nothing_fits_too():
    card = selector.card("RTX 4060")

    def choose(*here):
        return selector.select("steadydancer", card, "balanced", lambda v: v.id.rpartition("/")[2] in here)

    assert choose().variant == "steadydancer/Q4_K_M" and choose().streamed > 0
    assert choose("Q4_K_S").variant == "steadydancer/Q4_K_S" and "already here" in choose("Q4_K_S").reason
    assert choose("Q2_K").variant == "steadydancer/Q4_K_M"


@pytest.mark.parametrize(
    ("gpu", "here", "variant"),
    [
        ("RTX 4090", [], "fp8"),
        ("RTX 4090", ["Q4_K_M"], "Q4_K_M"),  # good enough, and no download
        ("RTX 4090", ["Q4_K_M", "fp8"], "fp8"),
        ("RTX 4090", ["fp16"], "fp8"),  # does not fit, and fp8 does
        ("RTX 4090", ["Q2_K"], "fp8"),  # too coarse to be taken for good
        ("A100 80GB", ["fp8"], "fp8"),  # what a pod's image was made with
        ("RTX 4060", ["fp8"], "fp8"),  # nothing fits whole: what is here waits in RAM
        ("RTX 4060", [], "Q4_K_M"),
    ],
)
def test_the_loaders_auto_takes_what_is_here_and_good_enough(gpu, here, variant):
    choice = selector.select(
        "steadydancer", selector.card(gpu), here=lambda v: v.id.rpartition("/")[2] in here, rather_here=True
    )
    assert choice.variant == f"steadydancer/{variant}"


def test_auto_without_a_gpu_is_what_a_download_means_by_it():
    card = selector.Card("this computer", 12.0, 0)
    assert selector.select("steadydancer", card, rather_here=True).variant == "steadydancer/fp8"
    assert selector.select("steadydancer", card).variant == "steadydancer/Q4_K_M"


def test_full_takes_a_coarser_type_before_it_gives_up(monkeypatch):
    card = selector.Card("a card", 14.5, 86)
    assert selector.select("steadydancer", card, "balanced").streamed > 0
    monkeypatch.setenv("GPU_MEMORY_MODE", "full")
    choice = selector.select("steadydancer", card, "balanced")
    assert choice.streamed == 0 and choice.weights + choice.working <= card.gb
    assert "all of it on the card" in choice.reason


def test_the_pods_variables(monkeypatch):
    h100 = selector.card("H100")
    monkeypatch.setenv("GPU_TIER", "datacenter")
    assert selector.select("qwen-image-edit-2511", h100).variant == "qwen-image-edit-2511/bf16"
    assert selector.select("qwen-image-edit-2511", h100, "balanced").variant == "qwen-image-edit-2511/fp8mixed"
    monkeypatch.setenv("GPU_TIER", "toaster")
    with pytest.raises(ValueError, match="GPU_TIER is 'toaster'"):
        selector.select("steadydancer", h100)
    monkeypatch.setenv("GPU_TIER", "consumer")
    monkeypatch.setenv("GPU_MEMORY_MODE", "full")
    with pytest.raises(ValueError, match="Nothing of steadydancer fits whole into"):
        selector.select("steadydancer", selector.card("RTX 3060 Ti"))
    monkeypatch.setenv("GPU_MEMORY_MODE", "model_cpu_offload")
    assert selector.select("steadydancer", selector.card("RTX 4060 Ti")).streamed == 0, "the whole model is on the card"
    monkeypatch.setenv("STEADYDANCER_GPU_MEMORY_MODE", "sequential_cpu_offload")
    choice = selector.select("steadydancer", h100)
    assert choice.streamed == choice.weights


def test_a_variant_that_the_environment_names_is_taken_where_the_node_says_auto(monkeypatch):
    monkeypatch.setenv("STEADYDANCER_VARIANT", "gguf")
    monkeypatch.setenv("STEADYDANCER_GGUF_MODEL", "q5_k_m")
    card = selector.card("RTX 4090")
    assert selector.select("steadydancer", card).variant == "steadydancer/Q5_K_M"
    assert selector.select("steadydancer", card, "balanced").variant == "steadydancer/fp8"
    monkeypatch.setenv("STEADYDANCER_VARIANT", "Auto")
    assert selector.select("steadydancer", selector.card("RTX 3060")).variant == "steadydancer/Q4_K_M"


def test_an_unknown_card_is_told_the_known_ones():
    with pytest.raises(ValueError, match="'RTX 9090' is no card of the table. Choose one of .*RTX 4090"):
        selector.card("RTX 9090")
    assert selector.card("rtx 4090").sm == 89
