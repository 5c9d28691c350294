"""What is learned from runs: bounded, deaf to one bad run, not to running out of memory, and forgotten when asked."""

import json

import pytest
from steadydancer import cli
from steadydancer.machine import gpus
from steadydancer.planning.calibration import Calibration, Measurement, correction, measurement
from steadydancer.planning.job import job_for
from steadydancer.planning.planner import plan_job

KIND = "steadydancer/bf16/0.30.0"


def run(ratio: float, phase="sample", ran_out=False, gpu="RTX 4090", kind=KIND) -> Measurement:
    return Measurement(phase, kind, gpu, 832 * 480 * 81, 1_000_000_000, round(ratio * 1e9), ran_out)


def plan(calibration=None, **given):
    return plan_job(job_for("steadydancer/fp8", 832, 480, 81, **given), gpus.card("RTX 4090"), calibration=calibration)


@pytest.mark.parametrize(
    ("ratios", "factor"),
    [
        ([], 1.0),
        ([0.6], 1.0),  # a single run makes nothing smaller
        ([9.0], 1.25),  # and nothing much larger
        ([0.8, 0.8], 1.0),
        ([0.8, 0.8, 0.8], 0.8),
        ([1.4, 1.4, 1.4], 1.4),
        ([0.9, 0.9, 50.0], 0.9),  # one wild run
        ([0.9, 0.9, 0.0], 0.9),
        ([0.1] * 5, 0.5),
        ([50.0] * 5, 2.0),
        ([1.11, 1.12, 1.13], 1.15),  # in steps of a twentieth
    ],
)
def test_correction(ratios, factor):
    assert correction([run(ratio) for ratio in ratios]) == pytest.approx(factor)


def test_running_out_of_memory_is_not_outvoted():
    assert correction([run(0.8)] * 5 + [run(1.25, ran_out=True)] + [run(0.8)] * 3) == 1.25
    assert correction([run(1.25, ran_out=True)]) == 1.25


def test_what_is_stored_comes_back_and_the_oldest_is_forgotten(tmp_path):
    book = Calibration(tmp_path / "vram_calibration.json", "0.30.0")
    assert book.corrections("steadydancer", gpus.card("RTX 4090")) == {}
    book.add([run(1.9)] * 9)
    assert book.corrections("steadydancer", gpus.card("RTX 4090")) == {"sample": 1.9}
    book.add([run(1.2)] * 9 + [run(1.5, "vae_decode")] * 3)
    assert book.corrections("steadydancer", gpus.card("RTX 4090")) == {"sample": 1.2, "vae_decode": 1.5}
    assert len(book.read()) == 12
    assert book.corrections("steadydancer", gpus.card("RTX 5090")) == {}, "another card"
    assert book.corrections("wan-14b-t2v", gpus.card("RTX 4090")) == {}, "another model"
    assert (
        Calibration(tmp_path / "vram_calibration.json", "0.31.0").corrections("steadydancer", gpus.card("RTX 4090"))
        == {}
    ), "another ComfyUI"
    assert Calibration(tmp_path / "vram_calibration.json").corrections("steadydancer", gpus.card("RTX 4090")), (
        "the command line takes all versions"
    )


ODD = {
    "phase": "sample",
    "kind": "steadydancer/bf16/0.30.0",
    "gpu": "RTX 4090",
    "volume": 1,
    "predicted": 1,
    "measured": 9,
}
DAMAGED = [
    *("", "{", "[1]", '[{"phase": "sample"}]', '{"a": 1}', "5", "null", "[" * 100_000),
    *(
        json.dumps([ODD | odd])
        for odd in ({"kind": 5}, {"gpu": None}, {"predicted": "1"}, {"measured": 1e999}, {"phase": []})
    ),
    *(json.dumps([ODD | odd]) for odd in ({"measured": 10**400}, {"measured": -1}, {"ran_out": 1}, {"more": 1})),
]


@pytest.mark.parametrize("text", DAMAGED, ids=range(len(DAMAGED)))
def test_a_damaged_file_is_as_none(tmp_path, text):
    book = Calibration(tmp_path / "vram_calibration.json", "0.30.0")
    book.path.write_text(text, "utf-8")
    assert book.corrections("steadydancer", gpus.card("RTX 4090")) == {}
    book.add([run(1.5)] * 3)
    assert book.corrections("steadydancer", gpus.card("RTX 4090")) == {"sample": 1.5}


def test_a_plan_follows_what_was_measured(tmp_path):
    book, before = Calibration(tmp_path / "vram_calibration.json", "0.30.0"), plan()
    for _ in range(3):
        planned = plan(book).phase("sample")
        beside = planned.transient + round(1.3 * before.phase("sample").activations)
        book.add([measurement(plan(book), KIND, "sample", beside)])
    after = plan(book)
    assert after.calibrated and after.phase("sample").correction == 1.3
    assert after.phase("sample").activations == pytest.approx(1.3 * before.phase("sample").activations, rel=1e-6)
    assert after.phase("vae_decode") == before.phase("vae_decode")
    # learned at one size, it holds at another
    assert plan(book, branches=1).phase("sample").correction == 1.3


@pytest.mark.parametrize("variant", ["fp8", "Q4_K_M"])
def test_a_lora_that_was_on_the_card_before_teaches_nothing_less(variant):
    """Bytes that were planned beside the activations, and were in place before the phase computed."""
    distilled = plan_job(job_for(f"steadydancer/{variant}", 832, 480, 81, step_distill=True), gpus.card("RTX 4090"))
    planned = distilled.phase("sample")
    assert planned.transient > 0.1 * planned.activations
    for beside in (planned.activations, planned.activations + planned.transient):
        assert measurement(distilled, KIND, "sample", beside).ratio == pytest.approx(1.0)
    less = measurement(distilled, KIND, "sample", planned.activations // 2)
    assert less.ratio == pytest.approx(0.5), "but less is learned"


@pytest.mark.parametrize(
    ("driver", "table"),
    [
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 4060", "RTX 4060"),
        ("NVIDIA GeForce RTX 4060 Ti", "RTX 4060 Ti 16GB"),
        ("NVIDIA GeForce RTX 5060 Ti", "RTX 5060 Ti 16GB"),
        ("NVIDIA GeForce RTX 3060 Ti", "RTX 3060 Ti"),
        ("NVIDIA GeForce RTX 4080 SUPER", "RTX 4080 SUPER"),
        ("NVIDIA GeForce RTX 4080", "RTX 4080"),
        ("NVIDIA GeForce RTX 4070 SUPER", "RTX 4070 SUPER"),
        ("NVIDIA GeForce RTX 4070 Ti", "RTX 4070 Ti"),
        ("NVIDIA GeForce RTX 4070 Ti SUPER", "RTX 4070 Ti SUPER"),
        ("NVIDIA GeForce RTX 5070 Ti", "RTX 5070 Ti"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA L40", "L40"),
        ("NVIDIA RTX A6000", "RTX A6000"),
        ("NVIDIA RTX 6000 Ada Generation", "RTX 6000 Ada"),
        ("NVIDIA RTX PRO 6000 Blackwell Server Edition", "RTX PRO 6000"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA GeForce RTX 2080 with Max-Q Design", None),
    ],
)
def test_the_drivers_name_of_a_card(driver, table):
    known = gpus.known_as(driver)
    assert (known and known.name) == table


def test_what_was_measured_holds_for_the_card_by_its_name_in_the_table(tmp_path):
    book = Calibration(tmp_path / "vram_calibration.json", "0.30.0")
    book.add([run(1.5, gpu="NVIDIA GeForce RTX 4090")] * 3)
    assert plan(book).phase("sample").correction == 1.5
    book.add([run(1.5, gpu="NVIDIA GeForce RTX 9999")] * 3)
    assert book.corrections("steadydancer", gpus.card("RTX 5090")) == {}


def test_a_phase_that_is_not_on_the_card_teaches_nothing():
    assert measurement(plan(), KIND, "frames", 10**9) is None


@pytest.mark.parametrize("told", ["--user-dir", "--models-dir"])
def test_reset_on_the_command_line(tmp_path, capsys, told):
    """The file that the report node writes: user/__steadydancer, beside models."""
    (tmp_path / "models").mkdir()
    Calibration(tmp_path / "user" / "__steadydancer" / "vram_calibration.json", "0.30.0/pytorch").add(
        [run(1.5, kind=f"{KIND}/pytorch")] * 3
    )
    command = ["plan", told, str(tmp_path / told[2:].partition("-")[0])]
    assert cli.main([*command, "--variant", "fp8", "--gpu", "RTX 4090"]) == 0
    assert "corrected by measured runs" in capsys.readouterr().out
    assert cli.main([*command, "--reset-calibration"]) == 0
    assert "Forgot 3 measurements" in capsys.readouterr().out
    assert cli.main([*command, "--variant", "fp8", "--gpu", "RTX 4090", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["calibrated"] is False
