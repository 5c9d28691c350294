"""ComfyUI's operations with packed layers, and with norms whose weights stay float32 and round once, as TurboDiffusion's."""

from collections.abc import Callable
from typing import Any

import torch
from comfy.ops import cast_bias_weight, uncast_bias_weight
from torch.nn.functional import layer_norm, rms_norm

from ..quant import trials
from ..quant.ops import packed_operations

ROWS = 1 << 14  # normalised at a time: float32 copies of a whole video's tokens would take gigabytes


def by_rows(norm: Callable[[torch.Tensor], torch.Tensor], input: torch.Tensor) -> torch.Tensor:
    """`norm` of float32 rows, rounded once to the input's type."""
    if input.dtype == torch.float32:
        return norm(input)
    out = torch.empty_like(input)
    for source, target in zip(input.flatten(0, -2).split(ROWS), out.flatten(0, -2).split(ROWS)):
        target.copy_(norm(source.float()))
    return out


def norms_in_one_pass(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether our kernel for such norms runs on this device and agrees with torch."""
    return trials.capable(device, dtype) and trials.works(normalising, device, dtype)


def normalising(device: torch.device, dtype: torch.dtype) -> tuple:
    """float32 norms"""
    from .triton_norms import norm

    x = trials.pattern(3, 5, 160, device=device, dtype=dtype)
    weight, bias = (trials.pattern(160, device=device, dtype=torch.float32) + shift for shift in (2, 0))
    ours = torch.stack((norm(x, weight, None, 1e-6), norm(x, weight, bias, 1e-6)))
    exact = rms_norm(x.float(), (160,), weight, 1e-6), layer_norm(x.float(), (160,), weight, bias, 1e-6)
    return ours, torch.stack(exact), 0.02


def normalised(layer: Any, input: torch.Tensor, plain: Callable[..., torch.Tensor]) -> torch.Tensor:
    """The layer's norm in float32: one kernel on a GPU that runs it, else `plain(rows, weight, bias)` of torch."""
    weight, bias, stream = cast_bias_weight(
        layer, dtype=torch.float32, device=input.device, bias_dtype=torch.float32, offloadable=True
    )
    if not torch.compiler.is_compiling() and norms_in_one_pass(input.device, input.dtype):
        from .triton_norms import norm

        with torch.cuda.device(input.device):
            out = norm(input, weight, bias, layer.eps)
    else:
        out = by_rows(lambda rows: plain(rows, weight, bias), input)
    uncast_bias_weight(layer, weight, bias, stream)
    return out


def turbo_operations() -> type[Any]:
    """Operations for `custom_operations`, with a `scratch` of their own."""
    base: Any = packed_operations()

    class TurboOperations(base):
        class RMSNorm(base.RMSNorm):
            def __init__(self, *args: Any, dtype: Any = None, **kwargs: Any) -> None:
                super().__init__(*args, dtype=torch.float32, **kwargs)

            def forward_comfy_cast_weights(self, input: torch.Tensor) -> torch.Tensor:
                return normalised(self, input, lambda x, w, _: rms_norm(x, self.normalized_shape, w, self.eps))

        class LayerNorm(base.LayerNorm):
            def __init__(self, *args: Any, dtype: Any = None, **kwargs: Any) -> None:
                super().__init__(*args, dtype=torch.float32, **kwargs)

            def forward_comfy_cast_weights(self, input: torch.Tensor) -> torch.Tensor:
                if self.weight is None:
                    return super().forward_comfy_cast_weights(input)
                return normalised(self, input, lambda x, w, b: layer_norm(x, self.normalized_shape, w, b, self.eps))

    return TurboOperations
