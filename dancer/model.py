"""SteadyDancer as one of ComfyUI's models: detection, weights, conditioning, timesteps, context windows."""

import logging
from typing import Any

import comfy.conds
import comfy.context_windows
import comfy.model_base
import comfy.ops
import comfy.supported_models
import torch
from comfy.quant_ops import QuantizedTensor

from ..formats.model_file import quantiser
from ..quant.blocks import BLOCKS, PLAIN, dequantise
from .network import SteadyDancerModel

MARKER = "{}patch_embedding_fuse.weight"
OURS = ".dancer.model"
KEPT_IN_FLOAT32 = ("condition_embedding_", "patch_embedding")
SIDE_KEYS = (
    "comfy_quant", "weight_scale", "weight_scale_2", "scale_weight", "input_scale", "scale_input", "pre_quant_scale",
    "weight_s_rel", "weight_s_channel", "weight_codebook",
)  # fmt: skip


class SteadyDancerBase(comfy.model_base.WAN21):
    """ComfyUI's Wan 2.1 I2V plus a pose.

    Conditioning keys, all raw VAE latents: `pose_video_latent` [B, 16, T, h, w], and where they are not the first frames of
    picture and pose: `ref_latent` and `ref_pose_latent` [B, 16, 1, h, w]. `pose_clip_vision_output` is core's type.
    """

    def __init__(
        self, model_config: Any, model_type: Any = comfy.model_base.ModelType.FLOW, device: torch.device | None = None
    ) -> None:
        super(comfy.model_base.WAN21, self).__init__(
            model_config, model_type, device=device, unet_model=SteadyDancerModel
        )
        self.image_to_video = True
        self.memory_usage_factor_conds = ("ref_latent", "ref_pose_latent")  # type: ignore[assignment]  # () in the base

    def load_model_weights(
        self, sd: dict[str, torch.Tensor], unet_prefix: str = "", assign: bool = False
    ) -> "SteadyDancerBase":
        """As ComfyUI's, after the pose modules' weights have been brought back to float32."""
        for name, parameter in self.diffusion_model.named_parameters():
            if name.startswith(KEPT_IN_FLOAT32):
                restore_float32(sd, unet_prefix + name, parameter.shape)
        return super().load_model_weights(sd, unet_prefix, assign=assign)

    def process_timestep(self, timestep: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        """The published code feeds the network whole timesteps: 999.8 becomes 999."""
        return timestep.trunc()

    def extra_conds(self, **kwargs: Any) -> dict[str, Any]:
        """As ComfyUI's, with pose latents, references and the pose's CLIP features. Raises ValueError where sizes differ."""
        pose = kwargs.get("pose_video_latent")
        if pose is not None:
            require_same_size(pose, kwargs["noise"])  # before ComfyUI's own code, which would fail in torch's words
        out = super().extra_conds(**kwargs)
        pose_clip = kwargs.get("pose_clip_vision_output")
        if pose_clip is not None:
            out["clip_fea_pose"] = comfy.conds.CONDRegular(pose_clip.penultimate_hidden_states)
        if pose is not None:
            out["pose_latents"] = comfy.conds.CONDRegular(self.process_latent_in(pose))
            # Fixed here for the whole clip, so that a context window does not take its own first frame for it.
            ref, ref_pose = kwargs.get("ref_latent"), kwargs.get("ref_pose_latent", pose[:, :, :1])
            ref = out["c_concat"].cond[:, -16:, :1] if ref is None else self.process_latent_in(ref)
            out["ref_latent"] = comfy.conds.CONDRegular(ref)
            out["ref_pose_latent"] = comfy.conds.CONDRegular(self.process_latent_in(ref_pose))
        return out

    def extra_conds_shapes(self, **kwargs: Any) -> dict[str, Any]:
        """As ComfyUI's, with the references, for its estimate of memory."""
        out = super().extra_conds_shapes(**kwargs)
        pose = kwargs.get("pose_video_latent")
        if pose is not None:
            b, c, _, h, w = pose.shape
            out["ref_latent"] = out["ref_pose_latent"] = [b, c, 1, h, w]
        return out

    def resize_cond_for_context_window(
        self,
        cond_key: str,
        cond_value: Any,
        window: Any,
        x_in: torch.Tensor,
        device: torch.device,
        retain_index_list: list[int] = [],  # noqa: B006 - the signature is ComfyUI's
    ) -> Any:
        """As ComfyUI's: a window has its own part of the poses, and the references of the whole clip."""
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
    """Raises ValueError where pose and latent [B, 16, T, h, w] differ in frames or size, naming both in pixels."""
    if pose.shape[2:] != latent.shape[2:]:
        (pt, ph, pw), (t, h, w) = pose.shape[2:], latent.shape[2:]
        raise ValueError(
            f"The pose video is {pw * 8}×{ph * 8} with {pt * 4 - 3} frames, but the latent to be sampled is "
            f"{w * 8}×{h * 8} with {t * 4 - 3}. Connect the latent output of SteadyDancer Conditioning to the sampler."
        )


def restore_float32(sd: dict, key: str, shape: torch.Size) -> None:
    """Makes `sd[key]` a plain float32 tensor of `shape`, whatever container it came in, and drops its side keys.

    Converters quantise these small tensors, forget dimensions of size 1, or leave a scale beside them.

    Raises ValueError when the file does not hold the tensor, holds another number of values, or packs them in a way that
    cannot be decoded.
    """
    if key not in sd:
        if kind := quantiser(sd):
            raise undecodable(key, f"this file {kind}")
        raise damaged(f"'{key}' is missing")
    tensor = decoded(sd, key, shape)
    if tensor.numel() != shape.numel():
        raise damaged(f"'{key}' is {list(tensor.shape)} where {list(shape)} is needed")
    if key.endswith("weight"):
        for name in SIDE_KEYS:
            sd.pop(key.removesuffix("weight") + name, None)
    sd[key] = tensor.reshape(shape).contiguous()


def damaged(what: str) -> ValueError:
    """The error for a file that lacks something."""
    return ValueError(
        f"This SteadyDancer file is damaged or incomplete: {what}. Download the file again, or choose another variant."
    )


def decoded(sd: dict, key: str, shape: torch.Size) -> torch.Tensor:
    """`sd[key]` as plain float32 numbers, in whatever shape they are stored.

    A packed tensor is asked to unpack itself; ComfyUI's own Linear unpacks what `comfy_quant` describes. Raises ValueError,
    naming the format, where neither can.
    """
    tensor, layer = sd[key], key.removesuffix("weight")
    if hasattr(tensor, "tensor_type") and hasattr(tensor, "tensor_shape"):  # ComfyUI-GGUF's
        return unpacked_ggml(tensor, key)
    if type(tensor) not in (torch.Tensor, torch.nn.Parameter):
        return unpacked_by_itself(tensor, key, shape)
    if key.endswith("weight") and layer + "comfy_quant" in sd:
        return unpacked_by_comfyui(sd, key, shape)
    scale = next((sd[layer + name] for name in ("weight_scale", "scale_weight") if layer + name in sd), None)
    if not tensor.is_floating_point() and (scale is None or tensor.numel() != shape.numel()):
        kind = str(tensor.dtype).removeprefix("torch.")
        raise undecodable(key, f"it is {kind}, and how it is packed is not said")
    tensor = tensor.to(torch.float32)
    if scale is None or not key.endswith("weight") or tensor.numel() != shape.numel():
        return tensor
    if scale.numel() not in (1, shape[0]):
        raise undecodable(key, f"it has {scale.numel():,} scales for its blocks")
    return tensor.reshape(shape[0], -1) * scale.to(torch.float32).reshape(-1, 1)


def undecodable(key: str, why: str) -> ValueError:
    """The error for weights of the pose modules in a form that cannot be turned into float32 here."""
    return ValueError(
        f"'{key}' of this SteadyDancer file cannot be unpacked here: {why}. The pose needs it as it was trained. Load the "
        "file with Load SteadyDancer, or choose another one: fp16, scaled fp8 or GGUF."
    )


def unpacked_by_itself(tensor: torch.Tensor, key: str, shape: torch.Size) -> torch.Tensor:
    """The numbers of a tensor of ComfyUI's or another pack's own class."""
    if isinstance(tensor, QuantizedTensor):
        return tensor.to(torch.float32).dequantize()
    try:
        plain = tensor.dequantize().to(torch.float32)
    except Exception as err:  # another pack's class may fail in any way
        raise undecodable(key, f"it is a {type(tensor).__name__} of another pack") from err
    if type(plain) is not torch.Tensor or plain.numel() != shape.numel():
        raise undecodable(key, f"it is a {type(tensor).__name__} of another pack")
    return plain


def unpacked_ggml(tensor: Any, key: str) -> torch.Tensor:
    """The numbers of a tensor that holds ggml's bytes, or plain floats, and says which and of what shape."""
    data, number = tensor.as_subclass(torch.Tensor), getattr(tensor.tensor_type, "value", tensor.tensor_type)
    if data.is_floating_point():
        return data.to(torch.float32)
    shape = torch.Size(tensor.tensor_shape)
    raw = data.contiguous().reshape(-1).view(torch.uint8)
    if number in PLAIN:
        numbers = raw.view(PLAIN[number]).to(torch.float32)
    elif number in BLOCKS and raw.numel() % BLOCKS[number].bytes == 0:
        count = raw.numel() // BLOCKS[number].bytes * BLOCKS[number].weights
        numbers = dequantise(raw, BLOCKS[number], torch.empty(count))
    else:
        raise undecodable(key, f"it is {getattr(tensor.tensor_type, 'name', f'of the ggml type {number}')}")
    if numbers.numel() != shape.numel():
        raise damaged(f"'{key}' holds {numbers.numel():,} numbers where {list(shape)} is needed")
    return numbers


def unpacked_by_comfyui(sd: dict, key: str, shape: torch.Size) -> torch.Tensor:
    """The numbers of a weight that `comfy_quant` describes, by the code that loads such layers."""
    layer = key.removesuffix("weight")
    side = {name: sd[layer + name] for name in SIDE_KEYS if layer + name in sd}
    operations = comfy.ops.mixed_precision_ops(compute_dtype=torch.float32)
    linear = operations.Linear(shape.numel() // shape[0], shape[0], bias=False, device="cpu")
    try:
        weight = sd[key] if sd[key].ndim == 2 else sd[key].flatten(1)
        linear.load_state_dict({**side, "weight": weight}, strict=False)
        numbers = linear.weight.dequantize().to(torch.float32)
    except Exception as err:  # a format of a newer ComfyUI, or what is no description
        described = bytes(side["comfy_quant"].to(torch.uint8).tolist()).decode("utf-8", "replace")
        raise undecodable(key, f"this ComfyUI does not know its format, {described[:80]}") from err
    smooth = getattr(linear, "pre_quant_scale", None)  # ComfyUI multiplies the layer's input with it
    return numbers if smooth is None else numbers * smooth.to(torch.float32)


class SteadyDancer(comfy.supported_models.WAN21_I2V):
    """What ComfyUI's detection looks for: a Wan 2.1 I2V file with the embedding that fuses the pose."""

    required_keys = {MARKER}  # type: ignore[assignment]  # the base class has {}, all others sets
    sampling_settings = {"shift": 5.0}

    def get_model(
        self, state_dict: dict[str, torch.Tensor], prefix: str = "", device: torch.device | None = None
    ) -> SteadyDancerBase:
        """The model, without weights yet."""
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
