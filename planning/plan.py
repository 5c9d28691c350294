"""What passes between the planner and the loaders: a job, a card, and the plan for the one on the other."""

import json
from dataclasses import asdict, dataclass, field

from ..machine.card import Card

VERSION = 2
FITS, FITS_WITH_CHANGES, DOES_NOT_FIT = "fits", "fits with changes", "does not fit"


@dataclass(frozen=True)
class Job:
    """One video that is to be made (batch_size 1). `variant` is a catalogue id or a file's path, sizes are pixels.

    `branches` are the guidance branches of the worst step (1 to 3), `lora_bytes` the size of all LoRA files together;
    `pose` says that the same prompt extracts the pose.
    """

    variant: str
    width: int
    height: int
    frames: int
    branches: int = 3
    steps: int = 40
    lora_bytes: int = 0
    pose: bool = True


@dataclass(frozen=True)
class Phase:
    """One part of a run: `where` is gpu or cpu, the parts are bytes at its peak, `seconds` an estimate.

    `correction` is the factor from calibration that the activations already contain.
    """

    name: str
    where: str = "gpu"
    weights: int = 0
    activations: int = 0
    transient: int = 0
    slack: int = 0
    seconds: float = 0.0
    correction: float = 1.0

    @property
    def peak(self) -> int:
        """Bytes on the card beside the CUDA context, or in RAM for a phase on the cpu."""
        return self.weights + self.activations + self.transient + self.slack


@dataclass(frozen=True)
class Plan:
    """How to run a job on a card. Bytes; `vae_tile` is pixels for core's tiled decode, 0 for whole frames.

    `kept` of `blocks` stay on the card, which are `resident` bytes of the diffusion model with what is not in blocks;
    `activations` is what the loader tells ComfyUI that one evaluation of one branch needs. `ram` and `disk` are what the
    computer must have; `seconds` and `money` (US dollars) are estimates. `reason` says why `auto` became this variant.
    """

    job: Job
    card: Card
    phases: tuple[Phase, ...]
    verdict: str
    mode: str
    blocks: int
    kept: int
    resident: int
    activations: int
    batched: bool = True
    vae_tile: int = 0
    text_encoder: str = "gpu"
    ram: int = 0
    disk: int = 0
    seconds: float = 0.0
    money: float | None = None
    calibrated: bool = False
    advice: tuple[str, ...] = field(default=())
    reason: str = ""

    @property
    def variant(self) -> str:
        """The one to load."""
        return self.job.variant

    @property
    def fits(self) -> bool:
        """Whether the job can run on the card, be it with changes."""
        return self.verdict != DOES_NOT_FIT

    @property
    def worst(self) -> Phase:
        """The phase that takes most of the card."""
        return max((phase for phase in self.phases if phase.where == "gpu"), key=lambda phase: phase.peak)

    def phase(self, name: str) -> Phase | None:
        """A phase by its name, such as sample or vae_decode; None where the job has none of that name."""
        return next((phase for phase in self.phases if phase.name == name), None)

    def to_json(self) -> str:
        """The plan as `plan --json` prints it and core's Preview as Text shows it, with a version of its form."""
        return json.dumps({"version": VERSION, **asdict(self)}, ensure_ascii=False)

    def __str__(self) -> str:
        return self.to_json()  # what core's Preview as Text shows of a plan
