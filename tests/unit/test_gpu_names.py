"""A card is found by the names that drivers, clouds and people give to it, and never taken for another one."""

import pytest
from steadydancer import cli
from steadydancer.machine import gpus
from steadydancer.machine.gpu_names import find

GIB = 1 << 30


@pytest.mark.parametrize(
    ("said", "card"),
    [
        ("RTX 4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("nvidia geforce rtx 4090 24gb", "RTX 4090"),
        ("GPU 0: NVIDIA GeForce RTX 4090 (UUID: GPU-1b2f-5090)", "RTX 4090"),
        ("Device: cuda:0 NVIDIA GeForce RTX 4090 : cudaMallocAsync", "RTX 4090"),
        ("cuda:1 NVIDIA L40S : native", "L40S"),
        ("RTX_4090", "RTX 4090"),
        ("rtx4090", "RTX 4090"),
        ("4090", "RTX 4090"),
        ("GeForce 3090Ti", "RTX 3090 Ti"),
        ("3090", "RTX 3090"),
        ("4070", "RTX 4070"),
        ("NVIDIA GeForce RTX 4070", "RTX 4070"),
        ("rtx4070ti super", "RTX 4070 Ti SUPER"),
        ("RTX 3070", "RTX 3070"),
        ("NVIDIA GeForce RTX 3080", "RTX 3080 10GB"),
        ("RTX 3080 10 GB", "RTX 3080 10GB"),
        ("RTX 3080 12GB", "RTX 3080 12GB"),
        ("RTX3080-12G", "RTX 3080 12GB"),
        ("Tesla T4", "T4"),
        ("nvidia-tesla-t4", "T4"),
        ("NVIDIA A10", "A10"),
        ("NVIDIA A10G", "A10G"),
        ("NVIDIA A40", "A40"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40", "L40"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA A100 80GB PCIe", "A100 80GB"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB"),
        ("NVIDIA A100-SXM4-40GB", "A100 40GB"),
        ("NVIDIA A100-PCIE-40GB", "A100 40GB"),
        ("nvidia-a100-80gb", "A100 80GB"),
        ("A100", "A100 40GB"),
        ("A100 SXM 80 GiB", "A100 80GB"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("H100 SXM5", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H100 NVL", "H100 NVL"),
        ("NVIDIA H200", "H200"),
        ("H200 141GB SXM", "H200"),
        ("NVIDIA RTX A6000", "RTX A6000"),
        ("a6000", "RTX A6000"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("RTX 6000Ada", "RTX 6000 Ada"),
        ("NVIDIA RTX 4000 Ada Generation", "RTX 4000 Ada"),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", "RTX PRO 6000"),
        ("rtxpro6000", "RTX PRO 6000"),
    ],
)
def test_a_card_by_any_of_its_names(said, card):
    assert gpus.card(said).name == card


@pytest.mark.parametrize(
    "said",
    [
        "RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "RTX 4090M",
        "RTX 4090 48GB",
        "NVIDIA GeForce RTX 2080 with Max-Q Design",
        "RTX 4060 Ti 8GB",
        "NVIDIA RTX 4000 SFF Ada Generation",
        "Quadro RTX 6000",
        "Quadro RTX 4000",
        "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition",
        "NVIDIA L20",
        "A10M",
        "A100 96GB",
        "NVIDIA",
        "GPU",
        "80GB",
        "PCIe",
        "",
        "gtx 1080 ti",
    ],
)
def test_another_card_is_not_taken_for_one(said):
    assert gpus.known_as(said) is None
    with pytest.raises(ValueError, match="is no card of the table. Choose one of"):
        gpus.card(said)


@pytest.mark.parametrize(
    ("said", "among"), [("RTX", "RTX 4090"), ("RTX 6000", "RTX PRO 6000"), ("6000", "RTX 6000 Ada")]
)
def test_a_name_of_several_cards_asks_which(said, among):
    with pytest.raises(ValueError, match="several cards") as raised:
        gpus.card(said)
    assert among in str(raised.value)


@pytest.mark.parametrize(
    ("said", "name", "gib", "power"),
    [
        ("NVIDIA A100 80GB PCIe MIG 1g.10gb", "A100 80GB MIG 1g.10gb", 10, 1 / 7),
        ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", "A100 40GB MIG 3g.20gb", 20, 3 / 7),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb+me", "H100 MIG 1g.10gb", 10, 1 / 7),
        ("H200 mig 2g.35gb", "H200 MIG 2g.35gb", 35, 2 / 7),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition MIG 1g.24gb", "RTX PRO 6000 MIG 1g.24gb", 24, 1 / 4),
    ],
)
def test_a_mig_instance_is_its_part_of_the_card(said, name, gib, power):
    whole, part = gpus.card(name.partition(" MIG")[0]), gpus.card(said)
    assert part.name == name and part.sm == whole.sm
    assert 0.9 * gib * GIB < part.total < gib * GIB and part.free < part.total
    assert part.bf16 == pytest.approx(whole.bf16 * power) and part.fp8 == pytest.approx(whole.fp8 * power)
    assert part.bandwidth == pytest.approx(whole.bandwidth * gib * GIB / whole.total)
    assert gpus.known_as(said) == part != gpus.known_as(name.partition(" MIG")[0])


def test_every_name_of_the_table_finds_itself():
    memory = gpus.memory()
    for name in memory:
        assert find(name, memory) == [name]
        assert find(f"NVIDIA {name}", memory) == [name]
        assert find(f"NVIDIA {name} Laptop GPU", memory) == []


@pytest.mark.parametrize("name", ["NVIDIA GeForce RTX 4090", "Tesla T4", "NVIDIA A100 80GB PCIe MIG 2g.20gb"])
def test_the_commands_take_them(name, tmp_path, capsys):
    assert cli.main(["plan", "--gpu", name, "--models-dir", str(tmp_path)]) in (0, 3)
    assert cli.main(["select", "--gpu", name]) == 0
    assert not capsys.readouterr().err
