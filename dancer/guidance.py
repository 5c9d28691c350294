"""Text and pose guidance together, as published: u + cfg·(c − u) + pose_cfg·(c − p) in the early middle of the run."""

from typing import Any

import comfy.samplers
import torch


class SteadyDancerGuider(comfy.samplers.CFGGuider):
    """c: positive text and pose; u: negative text; p: positive text with the negative (augmented) pose.

    The pose term applies at step i of N where start < i/N < end. A branch that a step does not need is not evaluated;
    those that it needs go through the model as one batch when ComfyUI's memory check allows.
    """

    def set_pose_guidance(self, pose_negative: list | None, pose_cfg: float, start: float, end: float) -> None:
        """`pose_negative`: a conditioning, or None for text guidance alone."""
        if pose_negative is not None:
            self.inner_set_conds({"pose_negative": pose_negative})
        self.pose_cfg = pose_cfg
        self.start = start
        self.end = end

    def predict_noise(
        self,
        x: torch.Tensor,
        timestep: torch.Tensor,
        model_options: dict[str, Any] = {},  # noqa: B006 - the signature is ComfyUI's
        seed: int | None = None,
    ) -> torch.Tensor:
        """The denoised latent of one step: ComfyUI's with text guidance, and the pose term added where it applies."""
        pose_negative = self.conds.get("pose_negative")
        sigmas = model_options["transformer_options"]["sample_sigmas"]
        if pose_negative is None or self.pose_cfg == 0 or not self.start < progress_at(timestep, sigmas) < self.end:
            return super().predict_noise(x, timestep, model_options, seed)

        hook = model_options.get("sampler_calc_cond_batch_function")
        branches: dict[str, torch.Tensor] = {}

        def evaluate(args: dict[str, Any]) -> list[torch.Tensor]:
            conds, plain = args["conds"], {**args, "model_options": model_options}
            if branches:  # a function after the guidance evaluates something of its own
                return (hook or evaluate_branches)({**plain, "conds": conds})
            if hook:  # it is made for two conditions, and so gets the pose's in the place of the positive one
                out = hook({**plain, "conds": conds})
                branches["c"], branches["p"] = out[0], hook({**plain, "conds": [pose_negative, None]})[0]
                return out
            *out, branches["p"] = evaluate_branches({**plain, "conds": [*conds, pose_negative]})
            branches["c"] = out[0]
            return out

        with_pose = {**model_options, "sampler_calc_cond_batch_function": evaluate}
        denoised = super().predict_noise(x, timestep, with_pose, seed)
        return denoised + self.pose_cfg * (branches["c"] - branches["p"])


def evaluate_branches(args: dict) -> list[torch.Tensor]:
    """What the model takes for the clean latent under each of the conditions, as ComfyUI itself asks it."""
    return comfy.samplers.calc_cond_batch(
        args["model"], args["conds"], args["input"], args["sigma"], args["model_options"]
    )


def progress_at(timestep: torch.Tensor, sigmas: torch.Tensor) -> float:
    """i/N: i is the last index of `sigmas` [N + 1] that is at least the current sigma, N the number of steps.

    Counting in the list gives a sampler's second evaluation, between two sigmas, to the step that it belongs to.
    """
    rounding = 1e-5  # some samplers rebuild a sigma of the list through exp and log
    reached = int((sigmas * (1 + rounding) >= timestep.max().to(sigmas)).sum()) - 1
    return max(reached, 0) / (len(sigmas) - 1)
