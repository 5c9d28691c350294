"""What a sampler's node says while a model of ours samples, whichever sampler and guider it is."""

import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP

from ..base.progress import duration
from ..catalog.catalog import catalogue
from ..dancer.guidance import SteadyDancerGuider
from ..planning.job import Find, job_for
from ..planning.planner import plan_job
from . import this_machine
from .progress import executing, say, told
from .web_server import show

KEY, DISTILLED = "steadydancer_steps", "steadydancer_step_distill"
DISTILLED_STEPS = 8  # with more, a step-distilled model only takes longer


running: "Steps | None" = None  # what is being sampled now


def watch(model: ModelPatcher, variant: str = "", finder: Callable[[], Find] | None = None) -> None:
    """Makes a MODEL say its steps under the node that samples it, if it does not yet.

    `variant` is what was loaded, where that is known, and `finder` finds its files: then the expected time is said first.
    """
    if not model.get_wrappers(WrappersMP.OUTER_SAMPLE, KEY):
        model.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, KEY, partial(sample, variant, finder))


def sample(
    variant: str,
    finder: Callable[[], Find] | None,
    executor: Any,
    noise: torch.Tensor,
    latent: torch.Tensor,
    sampler: Any,
    sigmas: torch.Tensor,
    mask: torch.Tensor | None = None,
    callback: Callable[..., None] | None = None,
    *args: Any,
    **kwargs: Any,
) -> torch.Tensor:
    """Wraps the whole sampling, by ComfyUI's own hook for that."""
    steps, guider = Steps(executing().node_id, len(sigmas) - 1), executor.class_obj
    if against := against_distillation(guider.model_patcher, getattr(guider, "cfg", 1.0), steps.count):
        logging.warning("%s", against)
        steps.note = f". {against}"

    def counted(step: int, *seen: Any) -> None:
        steps.done(step + 1)
        if callback is not None:
            callback(step, *seen)

    global running
    try:
        with told():
            steps.begin(expected(variant, finder, guider, latent, steps.count) if finder else 0.0)
            running = steps
            result = executor(noise, latent, sampler, sigmas, mask, counted, *args, **kwargs)
    finally:
        running = None
    steps.end()
    return result


class Steps:
    """The line under a node that samples `count` steps."""

    def __init__(self, node_id: str, count: int) -> None:
        self.node_id, self.count = node_id, count
        self.start = self.first = time.monotonic()
        self.note = ""  # what is odd about this run
        self.step = 1  # the one being computed
        self.left: float | None = None  # seconds until the last has ended, once that is known

    def begin(self, seconds: float) -> None:
        """Before the first step, of which an estimate may say how long all of them take."""
        about = f", about {duration(seconds)} for all (estimate)" if seconds else ""
        say(self.node_id, f"Step 1 of {self.count}{about}{self.note}")

    def done(self, step: int) -> None:
        """After a step. The first takes longer, since the model is brought to the card in it, so it does not count."""
        now = time.monotonic()
        if step == 1:
            self.first = now
        each = (now - self.first) / (step - 1) if step > 1 else now - self.start
        if step < self.count:
            self.step, self.left = step + 1, round(each * (self.count - step), 1)
            left = duration(self.left)
            show(f"Step {self.step} of {self.count}, {each:.1f} s a step, {left} left{self.note}", self.node_id)

    def end(self) -> None:
        """After the last."""
        say(self.node_id, f"{self.count} steps in {duration(time.monotonic() - self.start)}{self.note}")


def against_distillation(model: ModelPatcher, cfg: float, steps: int = 0) -> str:
    """What of a run contradicts the 4-step LoRA that the loader has added; empty where nothing does."""
    if not model.get_attachment(DISTILLED):
        return ""
    wrong = [f"cfg {cfg:g}"] if cfg != 1.0 else []
    wrong += [f"{steps} steps"] if steps > DISTILLED_STEPS else []
    return f"step_distill is on, which wants cfg 1 and 4 steps, and this is {' and '.join(wrong)}." if wrong else ""


def expected(variant: str, finder: Callable[[], Find], guider: Any, latent: torch.Tensor, steps: int) -> float:
    """Seconds that the planner expects for the steps on this card; 0 where it cannot know. `latent` [B, 16, T, h, w]."""
    card = this_machine.present_card()
    if variant not in catalogue().variants or not card.sm or latent.ndim != 5:
        return 0.0
    frames, height, width = (latent.shape[2] - 1) * 4 + 1, latent.shape[3] * 8, latent.shape[4] * 8
    text, pose = getattr(guider, "cfg", 1.0) != 1.0, pose_steps(guider, steps)
    try:
        job = job_for(variant, width, height, frames, branches=1 + text + (text and pose > 0), steps=steps)
        phase = plan_job(job, card, finder(), this_machine.calibration(), this_machine.host()).phase("sample")
    except ValueError:  # a size or a model that the planner does not know
        return 0.0
    more = 1 + pose / steps if not text else 1.0  # the planner knows of pose guidance beside text guidance only
    return phase.seconds * more * latent.shape[0] if phase else 0.0


def pose_steps(guider: Any, steps: int) -> int:
    """In how many of the steps our guider evaluates a branch for the pose; 0 for another guider."""
    if (
        not isinstance(guider, SteadyDancerGuider)
        or "pose_negative" not in guider.original_conds
        or not guider.pose_cfg
    ):
        return 0
    return sum(guider.start < step / steps < guider.end for step in range(steps))
