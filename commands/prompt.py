"""An API prompt as `cli.py queue` takes it: read from its file, filled in from the environment, changed by --set."""

import json
from pathlib import Path

from ..base import environment

# Environment variable → the inputs that it fills in, as (node class, input). The second table is for graphs of few steps.
NUMBERS = {
    "STEADYDANCER_GUIDE_SCALE": [("SteadyDancerGuider", "cfg")],
    "STEADYDANCER_CONDITION_GUIDE": [("SteadyDancerGuider", "pose_cfg")],
    "STEADYDANCER_END_CFG": [("SteadyDancerGuider", "end")],
    "STEADYDANCER_SEED": [("RandomNoise", "noise_seed"), ("KSampler", "seed"), ("SteadyDancerTurboSampler", "seed")],
    "DWPOSE_RESOLUTION": [("SteadyDancerPoseEstimator", "resolution")],
}
FEW_STEPS_NUMBERS = {
    "TURBO_STEPS": [("SteadyDancerSchedule", "steps"), ("SteadyDancerRCMSchedule", "steps")],
    "TURBO_GUIDE_SCALE": [("SteadyDancerGuider", "cfg")],
    "TURBO_CONDITION_GUIDE": [("SteadyDancerGuider", "pose_cfg")],
    "TURBO_END_CFG": [("SteadyDancerGuider", "end")],
}
TURBO_NODES = {"SteadyDancerRCMSchedule", "SteadyDancerTurboSampler", "SteadyDancerTurboLoader"}


class UsageError(ValueError):
    """The command line or the file asks for something that cannot be."""


def read_prompt(file: Path) -> dict:
    """The prompt in an API file.

    Raises UsageError when the file is not there or is not one.
    """
    try:
        # By its first bytes: Windows writes UTF-8 and UTF-16 with a mark before the text.
        prompt = json.loads(file.read_bytes())
    except OSError as err:
        raise UsageError(f"{file} cannot be read: {err.strerror}. Give the path of an API prompt.") from err
    except UnicodeError as err:
        raise UsageError(f"{file} is not text in UTF-8. Save it again as UTF-8.") from err
    except (ValueError, RecursionError) as err:
        where = f" (line {err.lineno})" if isinstance(err, json.JSONDecodeError) else ""
        raise UsageError(f"{file} is not JSON{where}. Export it again from ComfyUI with Export (API).") from err
    if isinstance(prompt, dict) and "nodes" in prompt:
        raise UsageError(
            f"{file} is a workflow for the page, which holds no prompt. Open it there and use Export (API), or take the "
            "file of that name in example_workflows/api."
        )
    if not isinstance(prompt, dict) or not all(
        isinstance(node, dict) and "class_type" in node and isinstance(node.get("inputs"), dict)
        for node in prompt.values()
    ):
        raise UsageError(f"{file} is not an API prompt. Export it from ComfyUI with Export (API).")
    return prompt


def fill_from_environment(prompt: dict) -> None:
    """Puts the numbers that are set in the environment into the inputs they belong to.

    In a graph of few steps (a TurboDiffusion model or a step-distilled LoRA) the TURBO_ variables come last and win.

    Raises ValueError for a variable that is not a number.
    """
    for table, side in ((NUMBERS, "on_false"), (FEW_STEPS_NUMBERS, "on_true"))[: 1 + has_few_steps(prompt)]:
        for variable, targets in table.items():
            if not environment.text(variable):
                continue
            value = environment.number(variable, 0)
            for node in prompt.values():
                for class_type, name in targets:
                    if node["class_type"] != class_type:
                        continue
                    holder, key = holder_of(prompt, node, name, side)
                    old = holder["inputs"].get(key)
                    if isinstance(old, int | float):
                        holder["inputs"][key] = int(value) if isinstance(old, int) and value == int(value) else value


def holder_of(prompt: dict, node: dict, name: str, side: str = "on_false") -> tuple[dict, str]:
    """The node and the input that hold an input's value: its own, or a primitive's that it comes from.

    Of a switch it is the side "on_true" (few steps, as in our templates) or "on_false" (the full run), whichever is on now.
    """
    for _ in range(len(prompt)):  # no chain is longer, so a circle ends
        link = node["inputs"].get(name)
        source = prompt.get(str(link[0])) if isinstance(link, list) and link else None
        if source is None or not source["class_type"].startswith(("ComfySwitchNode", "Primitive")):
            break
        node, name = source, side if source["class_type"] == "ComfySwitchNode" else "value"
    return node, name


def has_few_steps(prompt: dict) -> bool:
    """Whether a prompt is for few steps: a step-distill LoRA or TurboDiffusion, by its nodes and inputs."""
    for node in prompt.values():
        lora = str(node["inputs"].get("lora_name", "")).lower()
        holder, key = holder_of(prompt, node, "step_distill")
        distilled = "distill" in lora or "lightx2v" in lora or holder["inputs"].get(key) is True
        if node["class_type"] in TURBO_NODES or distilled:
            return True
    return False


def set_input(prompt: dict, assignment: str) -> None:
    """Carries out one NODE.INPUT=VALUE. The value's kind follows the one that is there.

    Raises UsageError, saying what there is, where node, input or value does not fit.
    """
    target, equals, text = assignment.partition("=")
    if not equals or "." not in target:
        raise UsageError(f"--set {assignment}: write it as NODE.INPUT=VALUE, for example 19.steps=20.")
    node, name = find_input(prompt, target)
    old = node["inputs"][name]
    if isinstance(old, list):
        raise UsageError(f"--set {assignment}: this input comes from node {old[0]}. Set that node's input instead.")
    if isinstance(old, str):
        node["inputs"][name] = text
        return
    try:
        value = json.loads(text)
    except ValueError:
        value = text
    wanted = bool if isinstance(old, bool) else (int, float)
    if isinstance(old, bool | int | float) and (
        not isinstance(value, wanted) or isinstance(value, bool) != (wanted is bool)
    ):
        kind = "true or false" if wanted is bool else "a number"
        raise UsageError(f"--set {assignment}: '{text}' is not {kind}, which this input takes.")
    node["inputs"][name] = value


def find_input(prompt: dict, target: str) -> tuple[dict, str]:
    """The node and the input that "NODE.INPUT" means; titles and inputs may have dots of their own."""
    named = False
    for position in (i for i, letter in enumerate(target) if letter == "."):
        who, name = target[:position], target[position + 1 :]
        nodes = [who] if who in prompt else [key for key, node in prompt.items() if title(node) == who]
        if len(nodes) > 1:
            raise UsageError(f"--set {target}: several nodes are called '{who}'. Use an id: {', '.join(nodes)}.")
        if nodes and name in prompt[nodes[0]]["inputs"]:
            return prompt[nodes[0]], name
        if nodes:
            named = True
            inputs = ", ".join(prompt[nodes[0]]["inputs"]) or "none"
            problem = f"--set {target}: '{who}' has no input '{name}'. It has: {inputs}."
    if named:
        raise UsageError(problem)
    names = ", ".join(f"{key} ({title(node)})" for key, node in prompt.items())
    raise UsageError(f"--set {target}: no node has this id or title. There are: {names}.")


def title(node: dict) -> str:
    """What a node is called: its title in the graph, else its class."""
    meta = node.get("_meta")
    return str(isinstance(meta, dict) and meta.get("title") or node["class_type"])
