"""Sparse-linear attention on GPUs: means of blocks, and one kernel for the sparse softmax, the linear part and its projection.

The same arithmetic as attention.py, which is the reference, with sums and softmax kept in float32. Not yet run on a GPU: tests
run it in Triton's interpreter and compile it for six cards. Eight warps and two stages are what fits there: with four warps
the loop spills, and three stages take 96 KB of the 99 that the RTX 4090 and 5090 have.
"""

import math

import torch
import triton
import triton.language as tl

from .attention import BLOCK_K, BLOCK_Q, EPSILON, select

TOKENS = 2048  # that one program sums up for the linear part: enough programs for a large card, few sums to add


@triton.jit
def means_kernel(x, offset, out, length, stride_b, stride_l, stride_h, heads, BLOCK: tl.constexpr, D: tl.constexpr):
    """One program a block of rows and head: the mean of the valid rows less `offset`."""
    block, head = tl.program_id(0), tl.program_id(1)
    rows, lanes = block * BLOCK + tl.arange(0, BLOCK), tl.arange(0, D)
    start = x + (head // heads).to(tl.int64) * stride_b + (head % heads) * stride_h
    valid = rows[:, None] < length
    values = tl.load(start + rows[:, None].to(tl.int64) * stride_l + lanes[None, :], mask=valid, other=0.0)
    shift = tl.load(offset + head * D + lanes)
    values = (values - shift[None, :]).to(values.dtype).to(tl.float32)  # rounded first, as published
    total = tl.sum(tl.where(valid, values, 0.0), 0)
    count = tl.minimum(BLOCK, length - block * BLOCK)
    tl.store(out + (head * tl.num_programs(0) + block) * D + lanes, total / count)


@triton.jit
def state_kernel(
    k, v, state, total, length, k_b, k_l, k_h, v_b, v_l, v_h, heads,
    COUNT: tl.constexpr, BLOCK: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """One program a run of COUNT blocks of tokens and head: their part of softmax(k)ᵀ·v and of the sum of softmax(k)."""
    part, head = tl.program_id(0), tl.program_id(1)
    sample, inner = (head // heads).to(tl.int64), head % heads
    lanes, rows = tl.arange(0, D), tl.arange(0, BLOCK)
    k_start, v_start = k + sample * k_b + inner * k_h, v + sample * v_b + inner * v_h
    products, sums = tl.zeros([D, D], tl.float32), tl.zeros([D], tl.float32)
    for block in range(COUNT):
        tokens = (part * COUNT + block) * BLOCK + rows
        inside = (tokens < length)[:, None]
        places = tokens[:, None].to(tl.int64)
        keys = tl.load(k_start + places * k_l + lanes[None, :], mask=inside, other=0.0)
        values = tl.load(v_start + places * v_l + lanes[None, :], mask=inside, other=0.0)
        features = tl.exp(keys.to(tl.float32) - tl.max(keys, 1).to(tl.float32)[:, None])
        features = tl.where(inside, features / tl.sum(features, 1)[:, None], 0.0).to(keys.dtype)
        products += tl.dot(tl.trans(features), values)
        sums += tl.sum(features.to(tl.float32), 0)
    at = (part * tl.num_programs(1) + head).to(tl.int64)
    tl.store(state + at * D * D + lanes[:, None] * D + lanes[None, :], products)
    tl.store(total + at * D + lanes, sums)


@triton.jit
def sla_kernel(
    q, k, v, selected, state, total, weight, bias, out,
    length, scale, heads,
    q_b, q_l, q_h, k_b, k_l, k_h, v_b, v_l, v_h, o_b, o_l, o_h,
    COUNT: tl.constexpr, EPS: tl.constexpr, LINEAR: tl.constexpr, BLOCK_Q: tl.constexpr, BLOCK_K: tl.constexpr, D: tl.constexpr,
):  # fmt: skip
    """One program a block of queries and head. `selected` [heads, query blocks, COUNT] are its key blocks."""
    block, head = tl.program_id(0), tl.program_id(1)
    sample, inner = (head // heads).to(tl.int64), head % heads
    rows, lanes, columns = block * BLOCK_Q + tl.arange(0, BLOCK_Q), tl.arange(0, D), tl.arange(0, BLOCK_K)
    valid = rows[:, None] < length
    q_at = q + sample * q_b + inner * q_h + rows[:, None].to(tl.int64) * q_l + lanes[None, :]
    queries = tl.load(q_at, mask=valid, other=0.0)
    highest = tl.full([BLOCK_Q], -1e30, tl.float32)
    weights = tl.zeros([BLOCK_Q], tl.float32)
    result = tl.zeros([BLOCK_Q, D], tl.float32)
    k_start, v_start = k + sample * k_b + inner * k_h, v + sample * v_b + inner * v_h
    picks = selected + (head * tl.num_programs(0) + block) * COUNT
    for i in range(COUNT):
        tokens = tl.load(picks + i) * BLOCK_K + columns
        inside = tokens < length
        places = tokens[:, None].to(tl.int64)
        keys = tl.load(k_start + places * k_l + lanes[None, :], mask=inside[:, None], other=0.0)
        scores = tl.dot(queries, tl.trans(keys)) * (scale * 1.4426950408889634)
        scores = tl.where(inside[None, :], scores, -1e30)
        new = tl.maximum(highest, tl.max(scores, 1))
        shrink, grown = tl.exp2(highest - new), tl.exp2(scores - new[:, None])
        values = tl.load(v_start + places * v_l + lanes[None, :], mask=inside[:, None], other=0.0)
        result = result * shrink[:, None] + tl.dot(grown.to(values.dtype), values)
        weights = weights * shrink + tl.sum(grown, 1)
        highest = new
    result = (result / weights[:, None]).to(queries.dtype).to(tl.float32)
    if LINEAR:
        features = queries.to(tl.float32)
        features = tl.exp(features - tl.max(features, 1)[:, None])
        features = (features / tl.sum(features, 1)[:, None]).to(queries.dtype)
        square = lanes[:, None] * D + lanes[None, :]
        numbers = tl.dot(features, tl.load(state + head * D * D + square))
        sums = tl.sum(features.to(tl.float32) * tl.load(total + head * D + lanes).to(tl.float32)[None, :], 1)
        numbers = (numbers / (sums + EPS)[:, None]).to(queries.dtype)
        projected = tl.dot(numbers, tl.trans(tl.load(weight + square)))
        result += projected + tl.load(bias + lanes).to(tl.float32)[None, :]
    o_at = out + sample * o_b + inner * o_h + rows[:, None].to(tl.int64) * o_l + lanes[None, :]
    tl.store(o_at, result.to(queries.dtype), mask=valid)


def block_means(x: torch.Tensor, offset: torch.Tensor, block: int) -> torch.Tensor:
    """x [B, L, H, D] less `offset` [B, H, D] → the means of every run of `block` tokens [B, H, ⌈L/block⌉, D]."""
    samples, length, heads, width = x.shape
    count = math.ceil(length / block)
    out = x.new_empty(samples, heads, count, width)
    means_kernel[(count, samples * heads)](
        x, offset.contiguous(), out, length, *x.stride()[:3], heads, BLOCK=block, D=width
    )
    return out


def linear_state(k: torch.Tensor, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """k, v [B, L, H, D] → softmax(k)ᵀ·v [B, H, D, D] and the sum of softmax(k) [B, H, D], of their type."""
    samples, length, heads, width = k.shape
    blocks = math.ceil(min(length, TOKENS) / BLOCK_K)
    parts = math.ceil(length / (blocks * BLOCK_K))
    states = k.new_empty(parts, samples, heads, width, width, dtype=torch.float32)
    totals = k.new_empty(parts, samples, heads, width, dtype=torch.float32)
    state_kernel[(parts, samples * heads)](
        k, v, states, totals, length, *k.stride()[:3], *v.stride()[:3], heads,
        COUNT=blocks, BLOCK=BLOCK_K, D=width, num_warps=8, num_stages=2,
    )  # fmt: skip
    return states.sum(0).to(k.dtype), totals.sum(0).to(k.dtype)


def sla(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    projection: tuple[torch.Tensor, torch.Tensor] | None,
    topk: float,
    pinned: int = 0,
) -> torch.Tensor:
    """`attention.sla` for q, k, v [B, L, H, 128] whose last axis is contiguous."""
    samples, length, heads, width = q.shape
    means = block_means(q, q.new_zeros(samples, heads, width), BLOCK_Q)
    chosen = select(means, block_means(k, k.mean(1), BLOCK_K), topk, pinned)
    out = torch.empty(q.shape, dtype=q.dtype, device=q.device)
    if projection is None:
        state = total = weight = bias = q  # not read
    else:
        (state, total), (weight, bias) = linear_state(k, v), projection
    sla_kernel[(chosen.shape[-2], samples * heads)](
        q, k, v, chosen.contiguous(), state, total, weight, bias, out,
        length, width**-0.5, heads,
        *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3],
        COUNT=chosen.shape[-1], EPS=EPSILON, LINEAR=projection is not None, BLOCK_Q=BLOCK_Q, BLOCK_K=BLOCK_K, D=width,
        num_warps=8, num_stages=2,
    )  # fmt: skip
    return out
