"""From files to ComfyUI objects."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import comfy.clip_vision
import comfy.model_management
import comfy.sd
import comfy.utils
import folder_paths
import torch
from comfy.model_patcher import ModelPatcher
from comfy.quant_ops import QUANT_ALGOS

from ..formats import model_file, pickle_file
from ..formats.safetensors_file import quantisation_formats
from ..quant.fp8 import with_true_formats
from ..quant.ops import packed_operations
from ..quant.patches import with_packed_patches
from .download.listing import Names
from .download.places import Places
from .gguf import diffusion_tensors, text_encoder_tensors


class ComfyPlaces(Places):
    """ComfyUI's model folders, those of extra_model_paths.yaml among them.

    Each folder is looked at once: make another for the next question.
    """

    def __init__(self) -> None:
        super().__init__(folder_paths.models_dir)
        self.seen: dict[Path, Names] = {}

    def names(self, root: Path) -> Names:
        """As Places.names, read once for all questions to this object."""
        if root not in self.seen:
            self.seen[root] = super().names(root)
        return self.seen[root]

    def folders(self, folder: str) -> list[Path]:
        """ComfyUI's own folders of a kind, the one to write into first."""
        if folder not in folder_paths.folder_names_and_paths:
            return super().folders(folder)
        old = Path(folder_paths.models_dir, "unet")  # is searched, but nothing is put there
        return sorted(map(Path, folder_paths.get_folder_paths(folder)), key=lambda path: path == old)

    def everywhere(self) -> list[Path]:
        """Every folder of models that ComfyUI knows."""
        kinds = (kind for kind in folder_paths.folder_names_and_paths if kind != "custom_nodes")
        return list(dict.fromkeys(Path(path) for kind in kinds for path in folder_paths.get_folder_paths(kind)))


def own_file(folder: str, name: str) -> Path:
    """A person's own file, as ComfyUI lists it. Raises ValueError where it is not there, or a link that leads nowhere."""
    found = folder_paths.get_full_path(folder, name)
    if found:
        return Path(found)
    listed = [Path(root, name) for root in folder_paths.get_folder_paths(folder)]
    model_file.require_whole(path for path in listed if os.path.lexists(path))
    raise ValueError(
        f"{name} is not in models/{folder} any more. Press R to read the folders again, and choose another."
    )


def load_diffusion(paths: list[Path]) -> ModelPatcher:
    """A MODEL from one file, safetensors or GGUF, or from all parts of a split one.

    One part of several stands for all that lie beside it. Raises ValueError, before anything is loaded, where a file is
    damaged, or stored in a way that is not known here.
    """
    paths = model_file.parts(paths[0]) if len(paths) == 1 else paths
    model_file.require_diffusion(paths)
    names = [str(path) for path in paths]
    if paths[0].suffix.lower() == ".gguf":
        return load_gguf(names[0])
    require_known_formats(paths)
    return load_shards(names) if len(paths) > 1 else load_one(names[0])


def require_known_formats(paths: list[Path]) -> None:
    """Raises ValueError for a format of layers that this ComfyUI does not have."""
    for path in paths:
        if model_file.FORMATS.get(path.suffix.lower()) == "safetensors":
            unknown = quantisation_formats(path) - QUANT_ALGOS.keys()
            if unknown:
                raise ValueError(
                    f"{path.name} has layers in the format {min(unknown)}, which this ComfyUI does not know. "
                    f"Update ComfyUI. {model_file.ANOTHER}"
                )


def tensors_of(path: str) -> tuple[dict[str, torch.Tensor], dict | None]:
    """Tensors and metadata of a safetensors file, or the tensors of a pickled one, of which nothing is run."""
    if Path(path).suffix.lower() in model_file.PICKLED:
        return pickle_file.weights(Path(path)), None
    return comfy.utils.load_torch_file(path, return_metadata=True)


def load_one(path: str, disable_dynamic: bool = False) -> ModelPatcher:
    """A MODEL from a safetensors file, or a pickled one. Scaled fp8 keeps the format that its tensors have."""
    tensors, metadata = tensors_of(path)
    if "_quantization_metadata" not in (metadata or {}):
        tensors = with_true_formats(tensors, Path(path).name)
    return known(detected(tensors, path, metadata=metadata, disable_dynamic=disable_dynamic), path, load_one)


def load_gguf(path: str, disable_dynamic: bool = False) -> ModelPatcher:
    """A MODEL from a GGUF file and the other parts of a split one: whatever ComfyUI's detection knows.

    It computes in the type that ComfyUI chooses for such a model: float16 for Wan on most cards, which is closer to float32
    than bfloat16, or what the user's flags say.
    """
    options = {"custom_operations": packed_operations()}
    # Packed weights stand for float32, which says nothing of a type that the file was made for.
    tensors = diffusion_tensors(Path(path), torch.float32)
    model = detected(tensors, path, model_options=options, disable_dynamic=disable_dynamic)
    return with_packed_patches(known(model, path, load_gguf))


def load_shards(paths: list[str], disable_dynamic: bool = False) -> ModelPatcher:
    """A MODEL from files that each hold a part of the tensors, computing in the type that ComfyUI chooses for the whole."""
    tensors: dict[str, torch.Tensor] = {}
    for path in paths:
        part, metadata = tensors_of(path)
        if "_quantization_metadata" in (metadata or {}):  # of this part's layers
            part, _ = comfy.utils.convert_old_quants(part, "", metadata=metadata)
        if twice := tensors.keys() & part.keys():
            raise ValueError(
                f"{Path(path).name} has '{min(twice)}' like another part of the same model. Download the parts again."
            )
        tensors.update(part)
    tensors = with_true_formats(tensors, Path(paths[0]).name)
    return known(detected(tensors, paths[0], disable_dynamic=disable_dynamic), paths, load_shards)


def detected(tensors: dict[str, torch.Tensor], path: str, **given: Any) -> ModelPatcher | None:
    """What ComfyUI makes of the tensors of a file, None where it knows no such model; `given` is for its function.

    Raises ValueError where something is missing, or has another shape than the model.
    """
    name = Path(path).name
    model_file.require_complete(tensors.keys(), name)
    try:
        return comfy.sd.load_diffusion_model_state_dict(tensors, **given)
    except (KeyError, IndexError, TypeError, AttributeError) as err:
        what = f"'{err.args[0]}' is not in it" if isinstance(err, KeyError) else "its tensors do not fit together"
        raise ValueError(f"{name} is not a whole model that ComfyUI knows: {what}. {model_file.AGAIN}") from err
    except RuntimeError as err:
        if "loading state_dict" not in str(err):
            raise
        raise ValueError(
            f"{name} is not a whole model that ComfyUI knows: its tensors have other shapes. {model_file.AGAIN}"
        ) from err


def known(model: ModelPatcher | None, source: str | list[str], load: Callable[..., ModelPatcher]) -> ModelPatcher:
    """The model that ComfyUI recognised, able to be loaded once more. Raises ValueError where it recognised none."""
    if model is None:
        name = Path(source).name if isinstance(source, str) else Path(source[0]).parent.name
        raise ValueError(f"{name} is not a model that ComfyUI knows. Choose another file, or fetch it again.")
    model.cached_patcher_init = (load, (source,))
    return model


def with_lora(model: ModelPatcher, path: Path, strength: float = 1.0) -> ModelPatcher:
    """The MODEL with a LoRA."""
    model_file.require_whole([path])
    lora = comfy.utils.load_torch_file(str(path), safe_load=True)
    return comfy.sd.load_lora_for_models(model, None, lora, strength, 0)[0]


def load_clip(paths: list[Path], clip_type: str, options: dict | None = None) -> comfy.sd.CLIP:
    """A CLIP from the files of a text encoder; `options` are ComfyUI's model options, such as where it computes."""
    options = options or {}
    model_file.require_whole(paths)
    kind = comfy.sd.CLIPType[clip_type.upper()]
    embeddings = folder_paths.get_folder_paths("embeddings")
    if paths[0].suffix.lower() == ".gguf":
        return load_gguf_clip(str(paths[0]), kind, embeddings, options)
    return comfy.sd.load_clip(
        [str(path) for path in paths], embedding_directory=embeddings, clip_type=kind, model_options=options
    )


def load_gguf_clip(
    path: str, kind: comfy.sd.CLIPType, embeddings: list[str], options: dict, disable_dynamic: bool = False
) -> comfy.sd.CLIP:
    """A CLIP from a T5 or UMT5 encoder's GGUF file."""
    clip = comfy.sd.load_text_encoder_state_dicts(
        [text_encoder_tensors(Path(path), torch.float16)],
        embedding_directory=embeddings,
        clip_type=kind,
        model_options={**options, "custom_operations": packed_operations()},
        disable_dynamic=disable_dynamic,
    )
    clip.patcher = with_packed_patches(clip.patcher)
    clip.patcher.cached_patcher_init = (gguf_clip_patcher, (path, kind, embeddings, options))
    return clip


def gguf_clip_patcher(
    path: str, kind: comfy.sd.CLIPType, embeddings: list[str], options: dict, disable_dynamic: bool = False
) -> ModelPatcher:
    """The patcher of a text encoder that is loaded again: what ComfyUI calls to make one anew."""
    return load_gguf_clip(path, kind, embeddings, options, disable_dynamic).patcher


def load_clip_vision(paths: list[Path]) -> comfy.clip_vision.ClipVisionModel:
    """An image encoder from its one file. Raises ValueError where the file is damaged or no image encoder."""
    model_file.require_whole(paths)
    model = comfy.clip_vision.load(str(paths[0]))
    if model is None:
        raise ValueError(f"{paths[0].name} is not an image encoder that ComfyUI knows. Fetch it again.")
    return model


def load_vae(paths: list[Path]) -> comfy.sd.VAE:
    """A VAE from its one file. Raises ValueError where the file is damaged, RuntimeError where it is no VAE."""
    model_file.require_whole(paths)
    tensors, metadata = comfy.utils.load_torch_file(str(paths[0]), return_metadata=True)
    vae = comfy.sd.VAE(sd=tensors, metadata=metadata)
    vae.throw_exception_if_invalid()
    vae.patcher.cached_patcher_init = (comfy.sd.load_vae_patcher, (str(paths[0]), metadata, None))
    return vae
