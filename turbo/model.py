"""TurboWan as one of ComfyUI's models: core's Wan with the timesteps and the head that its weights were trained with."""

from typing import Any

import comfy.model_base
import torch
from comfy.ldm.wan.model import Head, repeat_e
from comfy.model_patcher import ModelPatcher
from comfy.ops import cast_bias_weight, uncast_bias_weight

from ..base.mixin import mixed


class RoundedTimesteps:
    """Mixed into core's Wan: the published code feeds the network bf16(1000·t), 988 for 987.65."""

    def process_timestep(self, timestep: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """The timesteps as the network gets them: rounded to bfloat16."""
        return timestep.to(torch.bfloat16).float()


class Float32Head(Head):
    """Modulation and last layer in float32, so the velocity [B, L, 64] is not rounded to 16 bits. `e` [B, 1 or T, dim]."""

    def forward(self, x: torch.Tensor, e: torch.Tensor) -> torch.Tensor:
        modulation = self.modulation.to(x.device, torch.float32)
        shift, scale = (modulation.unsqueeze(0) + e.float().unsqueeze(2)).unbind(2)
        x = torch.addcmul(repeat_e(shift, x), self.norm(x).float(), 1 + repeat_e(scale, x))
        weight, bias, stream = cast_bias_weight(
            self.head, dtype=torch.float32, device=x.device, bias_dtype=torch.float32, offloadable=True
        )
        out = torch.nn.functional.linear(x, weight, bias)
        uncast_bias_weight(self.head, weight, bias, stream)
        return out


def as_turbo(model: ModelPatcher) -> ModelPatcher:
    """The patcher of a core Wan 2.1 or 2.2 model, made one of TurboWan. Raises ValueError for other models."""
    wan = model.model
    if not isinstance(wan, comfy.model_base.WAN21):
        raise ValueError("TurboDiffusion's sampling needs a Wan model. Load a TurboWan file.")
    if not isinstance(wan, RoundedTimesteps):
        wan.__class__ = mixed(RoundedTimesteps, type(wan))
        wan.diffusion_model.head.__class__ = Float32Head
    return model
