"""Our GPU kernels, compiled to machine code for the cards that people have. No card is needed for that."""

import json
import os
import subprocess
import sys

import pytest
from support import TESTS

pytest.importorskip("triton")

# Shared memory that one program may have, in bytes: NVIDIA's table of compute capabilities.
SHARED = {80: 163 << 10, 86: 99 << 10, 89: 99 << 10, 90: 227 << 10, 100: 227 << 10, 120: 99 << 10}
PRODUCTS = {90: "wgmma.mma_async", 100: "tcgen05.mma"}


KERNELS = ("means_kernel", "state_kernel", "sla_kernel", "norm_kernel", "quantise_kernel", "linear_kernel")


@pytest.fixture(scope="module")
def facts():
    variables = {**os.environ, "PYTHONPATH": str(TESTS)}
    variables.pop("TRITON_INTERPRET", None)
    done = subprocess.run(
        [sys.executable, TESTS / "support" / "compile_kernels.py"],
        env=variables,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr
    print(done.stdout)
    facts = [json.loads(line) for line in done.stdout.splitlines()]
    for kernel in KERNELS:
        of(facts, kernel)
    return facts


def of(facts, kernel: str) -> list:
    found = [fact for fact in facts if fact["kernel"] == kernel]
    assert {fact["card"] for fact in found} == set(SHARED)
    return found


def test_every_kernel_fits_every_card(facts):
    for fact in facts:
        assert fact["shared"] <= SHARED[fact["card"]], fact


def test_loops_keep_their_numbers_in_registers(facts):
    """One slip of a register beside the products is no loss; a loop that lives in memory would be."""
    for fact in facts:
        assert fact["spilled"] <= 4, fact


@pytest.mark.parametrize("kernel", ["sla_kernel", "state_kernel", "linear_kernel"])
def test_products_run_on_tensor_cores(facts, kernel):
    for fact in of(facts, kernel):
        # Triton has no 8-bit products for B200's own units, so layers are unpacked there (multiplies_8_bits).
        older = kernel == "linear_kernel" and fact["card"] == 100
        assert fact["products"] == ("mma.sync" if older else PRODUCTS.get(fact["card"], "mma.sync")), fact


def test_the_quantiser_rounds_twice_as_published(facts):
    """A fused product and sum would round once, and give another code where the product lies halfway between two."""
    assert not any(fact["fused"] for fact in of(facts, "quantise_kernel"))


def test_every_packed_type_is_unpacked_without_fused_sums(facts):
    """Products and sums are rounded one by one, as gguf-py rounds them: the numbers are the same to the bit."""
    found = of(facts, "unpack_kernel")
    assert len(found) == 9 * len(SHARED)
    assert not any(fact["fused"] for fact in found)
