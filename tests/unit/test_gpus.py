"""The table of cards, and the user's own file that has the last word on it."""

import sys
from types import SimpleNamespace

import pytest
from steadydancer import cli
from steadydancer.machine import gpus, this_computer


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """mine(text) writes the user's own file."""
    monkeypatch.setattr(gpus, "own", None)
    file = tmp_path / "__steadydancer" / "gpus.toml"
    gpus.use(file)

    def write(text):
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, "utf-8")
        gpus.merged.cache_clear()  # the clock of a file system may not have moved on between two writes
        return file

    return write


def test_own_prices_and_cards_override_the_table(mine):
    shipped = gpus.cards()
    mine(
        '[gpus]\n"RTX 4090" = { price = 0.11 }\n"My Card" = { gib = 20, sm = 86, bf16 = 90, bandwidth = 640, pcie = 25 }\n'
    )
    assert len(gpus.cards()) == len(shipped) + 1 and "My Card" in gpus.names()
    before = next(card for card in shipped if card.name == "RTX 4090")
    assert gpus.card("RTX 4090").price == 0.11 and gpus.card("RTX 4090").bf16 == before.bf16
    assert gpus.card("my card").price is None and gpus.card("my card").total == 20 * gpus.GIB
    assert gpus.known_as("NVIDIA My Card").name == "My Card"


def test_what_other_programs_take_can_be_changed_too(mine):
    before = gpus.card("RTX 4090").free
    mine("desktop_gb = 2.4\n")
    assert gpus.card("RTX 4090").free == before - 2_000_000_000


def test_without_a_file_it_is_the_shipped_table_again(mine):
    file = mine('[gpus]\n"RTX 4090" = { price = 0.11 }\n')
    assert gpus.card("RTX 4090").price == 0.11
    file.unlink()
    assert gpus.card("RTX 4090").price == gpus.shipped()["gpus"]["RTX 4090"]["price"]


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[gpus", "cannot be read"),
        ('[gpus]\n"My Card" = { gib = 20 }\n', "'My Card' lacks bandwidth, bf16, pcie, sm. Write"),
        ('[gpus]\n"RTX 4090" = { prize = 1 }\n', "prize of 'RTX 4090' must be one of"),
        ('[gpus]\n"RTX 4090" = { price = "cheap" }\n', "price of 'RTX 4090' must be one of"),
        ('[gpus]\n"RTX 4090" = 3\n', "'RTX 4090' lacks"),
        ("gpus = 3\n", "[gpus] must be a table"),
        ('desktop_gb = "much"\n', "desktop_gb must be a number"),
    ],
)
def test_a_wrong_file_is_said_when_it_is_used_and_breaks_no_list(mine, text, what, capsys):
    file = mine(text)
    with pytest.raises(ValueError) as caught:
        gpus.cards()
    assert what in str(caught.value) and str(file) in str(caught.value)
    assert gpus.names() == list(gpus.shipped()["gpus"])
    assert cli.main(["plan", "--gpu", "RTX 4090", "--user-dir", str(file.parents[1])]) == 1
    assert what in capsys.readouterr().err


def test_a_price_of_ones_own_is_in_the_plan(mine, capsys):
    file = mine('[gpus]\n"RTX 4090" = { price = 123.0 }\n')
    assert cli.main(["plan", "--gpu", "RTX 4090", "--variant", "fp8", "--user-dir", str(file.parents[1])]) == 0
    assert "at $123.00 an hour" in capsys.readouterr().out


class Torch:
    """Stands for torch on a machine with a GPU, which this one is not."""

    def __init__(self, name="", total=0, major=0, minor=0, hip=None):
        self.version = SimpleNamespace(hip=hip, cuda=None if hip else "12.8")
        properties = SimpleNamespace(name=name, total_memory=total, major=major, minor=minor)
        self.cuda = SimpleNamespace(is_available=lambda: bool(name), get_device_properties=lambda index: properties)


@pytest.mark.parametrize(
    ("torch", "card"),
    [
        (Torch("NVIDIA GeForce RTX 4090", 25_250_000_000, 8, 9), "RTX 4090"),
        (Torch("NVIDIA H100 80GB HBM3", 85_000_000_000, 9, 0), "H100"),
        (Torch("NVIDIA Something 20", 20 << 30, 8, 6), None),
        (Torch("AMD Radeon", 24 << 30, 11, 0, hip="6.4"), None),
    ],
)
def test_this_computers_card_is_what_torch_says(monkeypatch, torch, card):
    monkeypatch.setitem(sys.modules, "torch", torch)
    found = this_computer.present_card()
    if card:
        assert found == gpus.card(card), "so that --gpu this is as --gpu with its name"
    else:
        assert found.total == torch.cuda.get_device_properties(0).total_memory and found.price is None
        assert found.sm < 89 and found.fp8 == 0 and 0 < found.free < found.total


@pytest.mark.parametrize(("torch", "why"), [(None, "torch is not installed"), (Torch(), "no GPU that torch can use")])
def test_without_a_card_there_is_a_reason(monkeypatch, capsys, torch, why):
    monkeypatch.setitem(sys.modules, "torch", torch)
    with pytest.raises(this_computer.NoCard, match=why):
        this_computer.present_card()
    for command in ("select", "plan"):
        assert cli.main([command, "--gpu", "this"]) == 1
        assert why in capsys.readouterr().err
