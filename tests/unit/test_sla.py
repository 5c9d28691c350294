"""Sparse-linear attention against the published kernel's numbers and against dense attention."""

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from steadydancer.turbo import attention
from support import GOLDEN, tiny
from torch.nn.functional import scaled_dot_product_attention

FILE = GOLDEN / "sla_attention.safetensors"


class Case:
    """One case of the golden file; inputs [B, L, H, D] in half precision."""

    def __init__(self, name: str):
        with safe_open(FILE, "pt") as file:
            metadata = file.metadata()
        numbers = load_file(FILE)
        self.block_map, self.out = numbers[f"{name}.block_map"], numbers[f"{name}.out"]
        pairs = (pair.split("=") for pair in metadata[name].split(","))
        self.settings = {key: float(value) if key == "topk" else int(value) for key, value in pairs}
        shape = [self.settings[key] for key in ("B", "L", "H", "D")]

        def z(part):
            return tiny.z(f"{name}.{part}:{metadata['seed']}", shape)

        drift = np.cumsum(0.15 * z("drift").astype(np.float64), axis=1).astype(np.float32)
        self.q = torch.from_numpy(np.float32(0.5) * z("base") + drift).half()
        self.k = torch.from_numpy(np.float32(0.5) * z("k") + drift + np.float32(0.7)).half()
        self.v = torch.from_numpy(z("v")).half()
        d = self.settings["D"]
        keys = ((f"{name}.proj_l.weight", (d, d)), (f"{name}.proj_l.bias", (d,)))
        self.projection = tuple(tiny.weight(*key).half() for key in keys)


@pytest.fixture(params=["even", "tail", "square"], scope="module")
def case(request):
    return Case(request.param)


def map_of(selected, blocks):
    return torch.zeros(*selected.shape[:-1], blocks, dtype=torch.int8).scatter_(-1, selected.long(), 1)


def relative(a, b):
    return ((a.double() - b.double()).norm() / b.double().norm()).item()


def test_published_block_map_and_output(case):
    s = case.settings
    q, k = case.q.transpose(1, 2), case.k.transpose(1, 2)
    selected = attention.select_blocks(q, k, s["topk"], s["block_q"], s["block_k"])
    assert torch.equal(map_of(selected, case.block_map.shape[-1]), case.block_map)
    out = attention.sla(case.q, case.k, case.v, case.projection, s["topk"], s["block_q"], s["block_k"])
    error = relative(out, case.out)
    print(f"relative error {error:.1e}")
    assert error <= 1e-3


def random_inputs(length, heads=2, batch=1, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(batch, length, heads, 128, generator=generator).to(dtype) for _ in range(3)]


def dense(q, k, v, mask=None):
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)


def linear_oracle(q, k, v):
    q, k, v = (x.double().transpose(1, 2) for x in (q, k, v))
    q, k = q.softmax(-1), k.softmax(-1)
    weights = q @ k.transpose(-1, -2)
    return ((weights @ v) / (1e-5 + weights.sum(-1, keepdim=True))).transpose(1, 2)


ZERO = (torch.zeros(128, 128), torch.zeros(128))


@pytest.mark.parametrize("length", [1, 63, 64, 65, 128, 129, 300])
def test_all_blocks_and_no_projection_are_dense_attention(length):
    q, k, v = random_inputs(length, batch=2)
    assert (attention.sla(q, k, v, ZERO, 1.0) - dense(q, k, v)).abs().max() < 1e-5
    assert (attention.sla(q, k, v, None, 1.0) - dense(q, k, v)).abs().max() < 1e-5


@pytest.mark.parametrize("length", [1, 64, 300])
def test_the_linear_part_covers_all_tokens(length):
    q, k, v = random_inputs(length)
    identity = (torch.eye(128), torch.zeros(128))
    difference = attention.sla(q, k, v, identity, 0.1) - attention.sla(q, k, v, None, 0.1)
    assert (difference - linear_oracle(q, k, v)).abs().max() < 1e-5


@pytest.mark.parametrize("length", [200, 640, 651])
@pytest.mark.parametrize("pinned", [0, 2])
def test_sparse_part_is_masked_dense_attention(length, pinned, monkeypatch):
    monkeypatch.setattr(attention, "GATHERED", 1 << 15)  # several chunks
    q, k, v = random_inputs(length)
    selected = attention.select_blocks(q.transpose(1, 2), k.transpose(1, 2), 0.34, pinned=pinned)
    blocks = -(-length // 64)
    chosen = map_of(selected, blocks).bool()
    assert not pinned or chosen[..., -pinned:].all()
    mask = chosen.repeat_interleave(128, 2)[:, :, :length].repeat_interleave(64, 3)[..., :length]
    assert not mask.all()
    assert (attention.sla(q, k, v, None, 0.34, pinned=pinned) - dense(q, k, v, mask)).abs().max() < 1e-5


def test_block_means_against_a_loop():
    x = random_inputs(150)[0].transpose(1, 2)
    means = attention.block_means(x, 64)
    assert means.shape[2] == 3
    for block in range(3):
        assert (means[:, :, block] - x[:, :, block * 64 : (block + 1) * 64].mean(2)).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("topk", "blocks", "count"),
    [(0.1, 512, 51), (0.15, 512, 76), (0.1, 1182, 118), (0.1, 5, 1), (0.01, 1, 1), (1.0, 7, 7)],
)
def test_number_of_blocks(topk, blocks, count):
    assert attention.selected_count(topk, blocks) == count


@pytest.mark.parametrize("length", [640, 651, 100])
def test_torchs_fused_attention_can_be_used(length, monkeypatch):
    """Its fused kernels want four dimensions; with three, torch converts keys and values to float32 on a GPU."""
    seen, attend = [], scaled_dot_product_attention
    monkeypatch.setattr(
        attention,
        "scaled_dot_product_attention",
        lambda q, k, v, attn_mask: seen.append((q, k, v, attn_mask)) or attend(q, k, v, attn_mask=attn_mask),
    )
    q, k, v = random_inputs(length, heads=1)
    attention.sla(q, k, v, None, 0.5)
    for query, key, value, mask in seen:
        assert query.ndim == key.ndim == value.ndim == 4
        assert mask is None or mask.shape == (1, query.shape[1], 1, key.shape[2])
