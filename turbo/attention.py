"""Sparse-linear attention (SLA) in plain torch: the reference, and what runs where there is no Triton.

Source: Zhang et al., "SLA" (2025), and the published code of TurboDiffusion (Apache-2.0). Every intermediate result has the
type of the inputs, as published; sums are float32.
"""

import math

import torch
from torch.nn.functional import linear, pad, scaled_dot_product_attention

BLOCK_Q, BLOCK_K = 128, 64
EPSILON = 1e-5
GATHERED = 1 << 24  # values of gathered keys at a time


def block_means(x: torch.Tensor, block: int) -> torch.Tensor:
    """x [..., L, D] → the mean of every run of `block` rows [..., ⌈L/block⌉, D]; the last run may be shorter."""
    length = x.shape[-2]
    count = math.ceil(length / block)
    sums = pad(x, (0, 0, 0, count * block - length)).unflatten(-2, (count, block)).sum(-2, dtype=torch.float32)
    rows = torch.full((count, 1), float(block), device=x.device)
    rows[-1] = length - (count - 1) * block
    return (sums / rows).to(x.dtype)


def selected_count(topk: float, blocks: int, pinned: int = 0) -> int:
    """How many of `blocks` key blocks a row looks at: the whole part of topk · blocks, at least 1 and the pinned ones."""
    return min(blocks, max(1, pinned, int(topk * blocks)))


def select(q_means: torch.Tensor, k_means: torch.Tensor, topk: float, pinned: int = 0) -> torch.Tensor:
    """Means [..., nQ, D] and [..., nK, D] → the key blocks of every query block, ascending, int32 [..., nQ, n].

    The last `pinned` key blocks are always among them.
    """
    scores = q_means @ k_means.transpose(-1, -2)
    if pinned:
        scores[..., -pinned:] = torch.inf
    count = selected_count(topk, k_means.shape[-2], pinned)
    return scores.topk(count, sorted=False).indices.sort().values.int()


def select_blocks(
    q: torch.Tensor, k: torch.Tensor, topk: float, block_q: int = BLOCK_Q, block_k: int = BLOCK_K, pinned: int = 0
) -> torch.Tensor:
    """`select` for q and k [..., L, D], with k's mean over all L taken off first."""
    return select(block_means(q, block_q), block_means(k - k.mean(-2, keepdim=True), block_k), topk, pinned)


def sparse(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    selected: torch.Tensor,
    block_q: int = BLOCK_Q,
    block_k: int = BLOCK_K,
) -> torch.Tensor:
    """Softmax attention of one head, [L, D], over the `selected` key blocks [nQ, n] of every query block."""
    length, width = q.shape
    rows, count = selected.shape
    queries = pad(q, (0, 0, 0, rows * block_q - length)).view(rows, block_q, width)
    keys, values = (pad(x, (0, 0, 0, -length % block_k)).view(-1, block_k, width) for x in (k, v))
    out = torch.empty_like(queries)
    places = torch.arange(block_k, device=q.device)
    for start in range(0, rows, step := max(1, GATHERED // (count * block_k * width))):
        chunk = selected[start : start + step].long()
        mask = None
        if length % block_k:  # the rows that fill up the last block
            mask = (chunk[..., None] * block_k + places < length).flatten(1)[None, :, None]
        # torch's fused kernels want four dimensions, and do without float32 copies
        four = (queries[start : start + step], keys[chunk].flatten(1, 2), values[chunk].flatten(1, 2))
        some_q, some_k, some_v = (x[None] for x in four)
        out[start : start + step] = scaled_dot_product_attention(some_q, some_k, some_v, attn_mask=mask)[0]
    return out.view(-1, width)[:length]


def linear_part(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Linear attention over all tokens with softmax over the channels as feature map, [L, D]."""
    q, k = q.softmax(-1), k.softmax(-1)
    return (q @ (k.t() @ v)) / (EPSILON + (q * k.sum(0)).sum(-1, keepdim=True))


def sla(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    projection: tuple[torch.Tensor, torch.Tensor] | None,
    topk: float,
    block_q: int = BLOCK_Q,
    block_k: int = BLOCK_K,
    pinned: int = 0,
) -> torch.Tensor:
    """q, k, v [B, L, H, D] of one type → [B, L, H, D].

    `projection`: weight [D, D] and bias [D] of the linear part, of the same type; None leaves that part out.
    `pinned`: key blocks at the end that every query looks at.
    """
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    for sample in range(q.shape[0]):
        for head in range(q.shape[2]):
            one_q, one_k, one_v = (x[sample, :, head] for x in (q, k, v))
            selected = select_blocks(one_q, one_k, topk, block_q, block_k, pinned)
            result = sparse(one_q, one_k, one_v, selected, block_q, block_k)
            if projection is not None:
                result = result + linear(linear_part(one_q, one_k, one_v), *projection)
            out[sample, :, head] = result
    return out
