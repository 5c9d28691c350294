"""The shipped workflows, and what a test has to put in place for them to run."""

import copy
import json
from pathlib import Path

from steadydancer.catalog.catalog import ModelFile
from steadydancer.catalog.names import STEP_DISTILL, files_of, split
from steadydancer.machine.card import computer
from steadydancer.planning.choose import choose

from . import ROOT

APPS = sorted((ROOT / "example_workflows").glob("*.app.json"))
EXAMPLES = sorted({*(ROOT / "example_workflows").glob("*.json")} - {*APPS})
PROMPTS = sorted((ROOT / "example_workflows" / "api").glob("*.json"))

# Core's loaders, and the model folder that their file widgets read. Nodes of ours that read a file are added here.
FILE_INPUTS = {
    ("UNETLoader", "unet_name"): "diffusion_models",
    ("CLIPLoader", "clip_name"): "text_encoders",
    ("TinyUMT5Loader", "clip_name"): "text_encoders",
    ("CLIPVisionLoader", "clip_name"): "clip_vision",
    ("VAELoader", "vae_name"): "vae",
    ("LoraLoader", "lora_name"): "loras",
    ("LoraLoaderModelOnly", "lora_name"): "loras",
}

# What a CPU needs to finish within a minute, by a node's title or type. Sizes and counts only: no node, link or name is touched.
TINY_VALUES = {
    "Length in seconds": {"value": 1.0},
    "SteadyDancerFitImage": {"area": "custom", "width": 64, "height": 96},
    "SteadyDancerToVideo": {"length": 17},
    "SteadyDancerDrivingVideo": {"frames": 17},
    "SteadyDancerSchedule": {"steps": 4},
    "BasicScheduler": {"steps": 4},
    "KSampler": {"steps": 4},
    "EmptyHunyuanLatentVideo": {"width": 64, "height": 96, "length": 17},
    "WanImageToVideo": {"length": 17},
    "SteadyDancerVariantSelector": {"budget": 24.0, "generation": "40xx, L40S, H100 (Ada, Hopper)"},
    "SteadyDancerVRAMPlanner": {"variant": "steadydancer/fp8", "frames": 17, "steps": 4},
    "WanContextWindowsManual": {"context_length": 9, "context_overlap": 5},
}
# Examples that render nothing. On the page they are opened and not run; tests/e2e/test_workflows.py runs each its own way.
NO_RENDER = ("dwpose_extract", "dance_report", "save_to_r2", "download_models", "convert_model")
# Loaders of ours → the input that names what they load, and which output is CLIP.
LOADERS = {
    "SteadyDancerLoader": ("variant", 1),
    "SteadyDancerCatalogLoader": ("variant", 1),
    "SteadyDancerTurboLoader": ("model", 2),
}


def load(file: Path) -> dict:
    return json.loads(file.read_text("utf-8"))


def twin(file: Path) -> Path:
    """The API prompt that belongs to a workflow."""
    return file.parent / "api" / file.name


def node_types(workflow: dict) -> set[str]:
    """The node ids that a workflow uses, also inside its subgraphs."""
    graphs = [workflow, *workflow.get("definitions", {}).get("subgraphs", [])]
    return {node["type"] for graph in graphs for node in graph["nodes"]}


def with_tiny_text_encoder(prompt: dict) -> dict:
    """The prompt with the one replaced node: CLIPLoader becomes TinyUMT5Loader, with the same inputs.

    A loader of ours keeps all its outputs but CLIP, which a TinyUMT5Loader gives instead.
    """
    prompt = copy.deepcopy(prompt)
    for node in prompt.values():
        if node["class_type"] == "CLIPLoader":
            node["class_type"] = "TinyUMT5Loader"
    for key, tiny in text_encoders_of_loaders(prompt).items():
        prompt[f"{key}-clip"] = tiny
        clip = [key, LOADERS[prompt[key]["class_type"]][1]]
        for node in prompt.values():
            node["inputs"] |= {name: [f"{key}-clip", 0] for name, value in node["inputs"].items() if value == clip}
    return prompt


def text_encoders_of_loaders(prompt: dict) -> dict[str, dict]:
    """Id of each loader of ours whose CLIP output is used → the TinyUMT5Loader that stands in for it."""
    encoders = {}
    linked = [value for node in prompt.values() for value in node["inputs"].values() if isinstance(value, list)]
    for key, node in prompt.items():
        if node["class_type"] in LOADERS and [key, LOADERS[node["class_type"]][1]] in linked:
            file = next(file for file in catalogue_files(node) if file.role == "text_encoder")
            encoders[key] = {"class_type": "TinyUMT5Loader", "inputs": {"clip_name": file.name, "type": "wan"}}
    return encoders


def catalogue_files(node: dict) -> list[ModelFile]:
    """What a node of ours fetches from the catalogue where it is not there."""
    inputs = node["inputs"]
    if node["class_type"] == "SteadyDancerDownload":
        return files_of(split(inputs["names"]), automatic)
    if node["class_type"] == "SteadyDancerConvertModel":
        return [file for file in files_of([inputs["source"]], automatic) if file.role == "diffusion"]
    if node["class_type"] in ("SteadyDancerPoseEstimator", "SteadyDancerDancePoses", "SteadyDancerDanceReport"):
        return files_of(["dwpose/onnx"], automatic)
    if node["class_type"] not in LOADERS:
        return []
    variant = inputs[LOADERS[node["class_type"]][0]]
    if isinstance(variant, list):
        variant = (
            "steadydancer/fp8"  # what selector and planner choose by TINY_VALUES, where it is the file that is here
        )
    names = [automatic("steadydancer") if variant == "auto" else variant]
    return files_of(names + ([STEP_DISTILL] if inputs.get("step_distill") else []), automatic)


def automatic(family: str) -> str:
    """What `auto` is on the machine of the tests, which has no GPU and no file yet."""
    return choose(family, computer()).variant


def with_tiny_values(prompt: dict) -> dict:
    """The prompt at a size that a CPU can do: only values named in TINY_VALUES change."""
    prompt = copy.deepcopy(prompt)
    for node in prompt.values():
        for name, value in TINY_VALUES.get(tiny_key(node), {}).items():
            if not isinstance(node["inputs"].get(name), list | None):  # a link stays a link
                node["inputs"][name] = value
    return prompt


def tiny_key(node: dict) -> str:
    """What TINY_VALUES calls a node of a prompt."""
    title = node.get("_meta", {}).get("title", "")
    return title if title in TINY_VALUES else node["class_type"]


def model_files(prompt: dict) -> list[str]:
    """ "folder/file name" of every model file that the prompt names."""
    named = [
        f"{folder}/{node['inputs'][name]}"
        for node in prompt.values()
        for (class_type, name), folder in FILE_INPUTS.items()
        if node["class_type"] == class_type and isinstance(node["inputs"].get(name), str)
    ]
    fetched = [f"{file.folder}/{file.name}" for node in prompt.values() for file in catalogue_files(node)]
    return list(dict.fromkeys(named + fetched))
