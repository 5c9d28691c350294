"""Layers whose weights may be packed, GGUF or 8-bit: given to ComfyUI as `custom_operations`, they serve any model it detects."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import comfy.ops
import torch
from comfy.ops import cast_bias_weight, uncast_bias_weight

from .layout import Scratch, is_packed, multiplies_packed

if TYPE_CHECKING:
    from .patches import SideBranch


class PackedWeight(torch.nn.Module):
    """What Linear and Embedding share: weights are taken as they lie in the file, neither copied nor unpacked."""

    side_branch: "SideBranch | None" = None
    scratch: Scratch
    weight_comfy_model_dtype: torch.dtype | None
    has_bias: bool

    def _load_from_state_dict(
        self, state_dict: Any, prefix: Any, local_metadata: Any, strict: Any, missing: Any, unexpected: Any, errors: Any
    ) -> None:
        for name in ("weight", "bias"):
            tensor = state_dict.get(prefix + name)
            if tensor is not None:
                # Where tensors are assigned, ComfyUI converts them on their way to the GPU.
                if not is_packed(tensor) and not local_metadata.get("assign_to_params_buffers"):
                    tensor = tensor.to(self.weight_comfy_model_dtype)
                setattr(self, name, torch.nn.Parameter(tensor, requires_grad=False))
            elif name == "weight" or self.has_bias:
                missing.append(prefix + name)
        unexpected += [key for key in state_dict if key.removeprefix(prefix) not in ("weight", "bias")]

    def _apply(self, fn: Callable[[torch.Tensor], torch.Tensor], recurse: bool = True) -> "PackedWeight":
        for name, parameter in self._parameters.items():
            if parameter is not None:
                self._parameters[name] = torch.nn.Parameter(fn(parameter), requires_grad=False)
        return self

    def convert_weight(self, weight: torch.Tensor, inplace: bool = False, **kwargs: Any) -> torch.Tensor:
        """What ComfyUI asks for before it adds a patch of any kind to the weight."""
        return weight.dequantize() if is_packed(weight) else weight


def packed_operations() -> type[Any]:
    """ComfyUI's operations with packed Linear and Embedding, and the scratch memory that they share."""

    shared = Scratch()

    class PackedOperations(comfy.ops.manual_cast):
        scratch = shared

        class Linear(PackedWeight, comfy.ops.manual_cast.Linear):
            scratch = shared

            def __init__(
                self, in_features: int, out_features: int, bias: bool = True, device: Any = None, dtype: Any = None
            ) -> None:
                torch.nn.Module.__init__(self)
                self.in_features, self.out_features, self.has_bias = in_features, out_features, bias
                self.weight_comfy_model_dtype = self.bias_comfy_model_dtype = dtype
                self.register_parameter("weight", None)
                self.register_parameter("bias", None)

            def forward_comfy_cast_weights(self, input: torch.Tensor) -> torch.Tensor:
                # Weight functions are patches: they want numbers, and those of the input's precision.
                stays_packed = is_packed(self.weight) and not self.weight_function
                weight, bias, stream = cast_bias_weight(
                    self,
                    dtype=self.weight.dtype if stays_packed else input.dtype,
                    device=input.device,
                    bias_dtype=input.dtype,
                    offloadable=True,
                )
                if multiplies_packed(weight, input):
                    out = torch.ops.steadydancer.int8_linear(input, weight._qdata, weight._params.scale, bias)
                else:
                    if is_packed(weight):
                        weight = self.scratch.dense(weight, input.dtype)
                    out = torch.nn.functional.linear(input, weight, bias)
                uncast_bias_weight(self, weight, bias, stream)
                return out if self.side_branch is None else self.side_branch(input, out)

        class Embedding(PackedWeight, comfy.ops.manual_cast.Embedding):
            scratch = shared

            def __init__(
                self,
                num_embeddings: int,
                embedding_dim: int,
                padding_idx: int | None = None,
                device: Any = None,
                dtype: Any = None,
                **kwargs: Any,
            ) -> None:
                torch.nn.Module.__init__(self)
                self.num_embeddings, self.embedding_dim, self.padding_idx = num_embeddings, embedding_dim, padding_idx
                self.max_norm, self.norm_type = kwargs.get("max_norm"), kwargs.get("norm_type", 2.0)
                self.scale_grad_by_freq = self.sparse = self.has_bias = False
                self.weight_comfy_model_dtype = dtype
                self.register_parameter("weight", None)
                self.bias = None

            def forward(self, input: torch.Tensor, out_dtype: torch.dtype | None = None) -> torch.Tensor:
                if not is_packed(self.weight) or self.weight_function:
                    return super().forward(input, out_dtype=out_dtype)
                # Only the rows that are asked for are moved and unpacked: a vocabulary is larger than any layer.
                table = self.weight._qdata
                rows = table[input.to(table.device)].to(input.device)
                dtype = out_dtype or self.weight.dtype
                return torch.ops.steadydancer.dequantise(rows, self.weight._params.number, dtype)

    return PackedOperations
