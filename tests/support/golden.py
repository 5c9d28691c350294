"""The inputs of tests/golden/steadydancer_forward.safetensors, as the network and as the sampler take them."""

from dataclasses import dataclass

import torch
from safetensors import safe_open
from safetensors.torch import load_file

from . import GOLDEN, tiny

FILE = GOLDEN / "steadydancer_forward.safetensors"


@dataclass
class ClipVisionOutput:
    """The one field that Wan models read of core's CLIP_VISION_OUTPUT."""

    penultimate_hidden_states: torch.Tensor


class Golden:
    """`numbers` are what the published code produced; everything else are its inputs, normalised latents."""

    def __init__(self):
        self.numbers = load_file(FILE)
        with safe_open(FILE, "pt") as file:
            self.metadata = file.metadata()
        self.seed = int(self.metadata["seed"])
        self.size = t, h, w = tuple(int(side) for side in self.metadata["latent"].split(","))
        self.x = self.input("x", (16, t, h, w))
        self.y = self.input("y", (16, t, h, w))
        self.pose = self.input("condition", (16, t, h, w))
        self.negative_pose = self.input("condition_null", (16, t, h, w))
        self.ref = self.input("ref_x", (16, 1, h, w))
        self.ref_pose = self.input("ref_c", (16, 1, h, w))
        self.clip = tiny.recipe_input("clip_fea_x", self.seed, (1, 257, 1280))
        self.clip_pose = tiny.recipe_input("clip_fea_c", self.seed, (1, 257, 1280))
        self.text = self.padded_text("context", 37)
        self.negative_text = self.padded_text("context_null", 21)

    def input(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        return tiny.recipe_input(name, self.seed, shape)[None]

    def padded_text(self, name: str, tokens: int) -> torch.Tensor:
        text = tiny.recipe_input(name, self.seed, (tokens, 4096), scale=0.3)
        return torch.nn.functional.pad(text, (0, 0, 0, 512 - tokens))[None]

    def network_inputs(self, samples: int = 1) -> dict:
        """Arguments of the network's forward, all but the timestep."""
        mask = torch.zeros_like(self.x[:, :4])
        mask[:, :, 0] = 1.0
        inputs = {
            "x": torch.cat((self.x, mask, self.y), dim=1),
            "context": self.text,
            "clip_fea": self.clip,
            "clip_fea_pose": self.clip_pose,
            "pose_latents": self.pose,
            "ref_latent": self.ref,
            "ref_pose_latent": self.ref_pose,
        }
        return {name: tensor.repeat(samples, *[1] * (tensor.ndim - 1)) for name, tensor in inputs.items()}

    def conditionings(self, model) -> tuple[list, list, list]:
        """positive, negative and pose_negative as the conditioning node makes them, latents raw."""
        raw = model.model.process_latent_out
        mask = torch.ones_like(self.y[:, :1])
        mask[:, :, 0] = 0.0
        shared = {
            "concat_latent_image": raw(self.y),
            "concat_mask": mask,
            "clip_vision_output": ClipVisionOutput(self.clip),
            "pose_clip_vision_output": ClipVisionOutput(self.clip_pose),
            "ref_latent": raw(self.ref),
            "ref_pose_latent": raw(self.ref_pose),
            "pose_video_latent": raw(self.pose),
        }
        return (
            [[self.text, shared]],
            [[self.negative_text, shared]],
            [[self.text, {**shared, "pose_video_latent": raw(self.negative_pose)}]],
        )
