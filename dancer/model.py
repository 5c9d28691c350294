"""SteadyDancer as one of ComfyUI's models: detection, weights, conditioning, timesteps, context windows."""

import logging

import comfy.conds
import comfy.context_windows
import comfy.model_base
import comfy.supported_models
import torch
from comfy.quant_ops import QuantizedTensor

from .network import SteadyDancerModel

MARKER = "{}patch_embedding_fuse.weight"
OURS = ".dancer.model"
KEPT_IN_FLOAT32 = ("condition_embedding_", "patch_embedding")


class SteadyDancerBase(comfy.model_base.WAN21):
    """ComfyUI's Wan 2.1 I2V plus a pose.

    Conditioning keys, all raw VAE latents: `pose_video_latent` [B, 16, T, h, w], and where they are not the first frames of
    picture and pose: `ref_latent` and `ref_pose_latent` [B, 16, 1, h, w]. `pose_clip_vision_output` is core's type.
    """

    def __init__(self, model_config, model_type=comfy.model_base.ModelType.FLOW, device=None):
        super(comfy.model_base.WAN21, self).__init__(
            model_config, model_type, device=device, unet_model=SteadyDancerModel
        )
        self.image_to_video = True
        self.memory_usage_factor_conds = ("ref_latent", "ref_pose_latent")

    def load_model_weights(self, sd, unet_prefix="", assign=False):
        for name, parameter in self.diffusion_model.named_parameters():
            if name.startswith(KEPT_IN_FLOAT32):
                restore_float32(sd, unet_prefix + name, parameter.shape)
        return super().load_model_weights(sd, unet_prefix, assign=assign)

    def process_timestep(self, timestep, **kwargs):
        """The published code feeds the network whole timesteps: 999.8 becomes 999."""
        return timestep.trunc()

    def extra_conds(self, **kwargs):
        out = super().extra_conds(**kwargs)
        pose_clip = kwargs.get("pose_clip_vision_output")
        if pose_clip is not None:
            out["clip_fea_pose"] = comfy.conds.CONDRegular(pose_clip.penultimate_hidden_states)
        pose = kwargs.get("pose_video_latent")
        if pose is not None:
            require_same_size(pose, kwargs["noise"])
            out["pose_latents"] = comfy.conds.CONDRegular(self.process_latent_in(pose))
            # Fixed here for the whole clip, so that a context window does not take its own first frame for it.
            ref, ref_pose = kwargs.get("ref_latent"), kwargs.get("ref_pose_latent", pose[:, :, :1])
            ref = out["c_concat"].cond[:, -16:, :1] if ref is None else self.process_latent_in(ref)
            out["ref_latent"] = comfy.conds.CONDRegular(ref)
            out["ref_pose_latent"] = comfy.conds.CONDRegular(self.process_latent_in(ref_pose))
        return out

    def extra_conds_shapes(self, **kwargs):
        out = super().extra_conds_shapes(**kwargs)
        pose = kwargs.get("pose_video_latent")
        if pose is not None:
            b, c, _, h, w = pose.shape
            out["ref_latent"] = out["ref_pose_latent"] = [b, c, 1, h, w]
        return out

    def resize_cond_for_context_window(self, cond_key, cond_value, window, x_in, device, retain_index_list=[]):  # noqa: B006
        if cond_key == "pose_latents":
            return comfy.context_windows.slice_cond(
                cond_value, window, x_in, device, temporal_dim=2, retain_index_list=retain_index_list
            )
        if cond_key in ("ref_latent", "ref_pose_latent"):
            return cond_value
        return super().resize_cond_for_context_window(
            cond_key, cond_value, window, x_in, device, retain_index_list=retain_index_list
        )


def require_same_size(pose: torch.Tensor, latent: torch.Tensor) -> None:
    if pose.shape[2:] != latent.shape[2:]:
        (pt, ph, pw), (t, h, w) = pose.shape[2:], latent.shape[2:]
        raise ValueError(
            f"The pose video is {pw * 8}×{ph * 8} with {pt * 4 - 3} frames, but the latent to be sampled is "
            f"{w * 8}×{h * 8} with {t * 4 - 3}. Connect the latent output of SteadyDancer Conditioning to the sampler."
        )


def restore_float32(sd: dict, key: str, shape: torch.Size) -> None:
    """Makes `sd[key]` a plain float32 tensor of `shape`, whatever container it came in, and drops its side keys.

    Converters quantise these small tensors, forget dimensions of size 1, or leave a scale beside them.

    Raises ValueError when the file does not hold the tensor, or holds another number of values.
    """
    tensor = sd.get(key)
    if tensor is None or tensor.numel() != shape.numel():
        raise ValueError(
            f"This SteadyDancer file is damaged or incomplete: '{key}' is "
            f"{'missing' if tensor is None else f'{list(tensor.shape)} where {list(shape)} is needed'}. "
            "Download the file again, or choose another variant."
        )
    tensor = tensor.to(torch.float32)
    if isinstance(tensor, QuantizedTensor):
        tensor = tensor.dequantize()
    if key.endswith("weight"):
        layer = key.removesuffix("weight")
        for scale in (sd.pop(layer + name, None) for name in ("weight_scale", "scale_weight")):
            tensor = tensor if scale is None else tensor * scale.to(torch.float32)
        for name in ("comfy_quant", "input_scale", "scale_input"):
            sd.pop(layer + name, None)
    sd[key] = tensor.reshape(shape).contiguous()


class SteadyDancer(comfy.supported_models.WAN21_I2V):
    """What ComfyUI's detection looks for: a Wan 2.1 I2V file with the embedding that fuses the pose."""

    required_keys = {MARKER}
    sampling_settings = {"shift": 5.0}

    def get_model(self, state_dict, prefix="", device=None):
        return SteadyDancerBase(self, device=device)


def register() -> None:
    """Puts SteadyDancer before Wan 2.1 I2V in ComfyUI's own list, which would otherwise load its files without the pose.

    Steps aside where ComfyUI itself knows such files.
    """
    models = comfy.supported_models.models
    # What a copy of this package that could not be loaded, or an earlier load of this one, has left.
    models[:] = [model for model in models if model.__qualname__ != "SteadyDancer" or OURS not in model.__module__]
    if any(MARKER in model.required_keys for model in models):
        logging.info(
            "SteadyDancer: this ComfyUI loads SteadyDancer files itself; its own model is used, and may not fit our nodes."
        )
        return
    models.insert(models.index(comfy.supported_models.WAN21_I2V), SteadyDancer)
