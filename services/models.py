"""MODELs from diffusion files, with progress and Cancel on the node that is being executed."""

from functools import partial
from pathlib import Path

from comfy.model_patcher import ModelPatcher

from ..loaders import build
from ..loaders.turbo import load_turbo, prepared
from ..turbo.sla import with_sla
from .progress import NodeProgress, cancelled, executing, interruptible, say


def one_model(paths: list[Path], lora: Path | None = None, strength: float = 1.0) -> list[ModelPatcher]:
    """The MODEL from a file or its shards, with a LoRA where there is one."""
    model = build.load_diffusion(paths)
    return [build.with_lora(model, lora, strength) if lora else model]


def turbo_models(paths: list[Path], precision: str, attention: str, topk: float) -> list[ModelPatcher]:
    """A MODEL for each file, converted once if it is a pickle, with the sparse attention that it was trained with."""
    node_id = executing().node_id
    with interruptible():
        tell = partial(say, node_id)
        paths = [prepared(path, NodeProgress(node_id, "B"), cancelled, tell) for path in paths]
        loaded = load_turbo(paths, precision, NodeProgress(node_id, "layers"), cancelled)
    return [model if attention == "dense" else with_sla(model, projections, topk) for model, projections in loaded]
