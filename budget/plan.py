"""What passes between the planner and the loaders: a job, a card, and the plan for the one on the other."""

import json
from dataclasses import asdict, dataclass, field

VERSION = 1
PHASES = ("text_encode", "image_encode", "pose", "vae_encode", "sample", "vae_decode", "frames")
FITS, FITS_WITH_CHANGES, DOES_NOT_FIT = "fits", "fits with changes", "does not fit"
VERDICTS = (FITS, FITS_WITH_CHANGES, DOES_NOT_FIT)
MODES = ("full", "model_cpu_offload", "sequential_cpu_offload")


@dataclass(frozen=True)
class Job:
    """What is to be made. `variant` is a catalogue id or a file's path; `width` and `height` are pixels.

    `branches` are the guidance branches of the worst step (1 to 3), `lora_bytes` the size of all LoRA files together;
    `pose` says that the same prompt extracts the pose.
    """

    family: str
    variant: str
    width: int
    height: int
    frames: int
    batch: int = 1
    branches: int = 3
    steps: int = 50
    lora_bytes: int = 0
    turbo: bool = False
    pose: bool = True


@dataclass(frozen=True)
class Card:
    """A GPU: bytes in all and free, compute capability (89 for 8.9), FLOP/s, bytes/s, and US dollars an hour.

    Rates are 0 where they are not known.
    """

    name: str
    total: int
    free: int
    sm: int
    bf16: float = 0.0
    fp8: float = 0.0
    bandwidth: float = 0.0
    pcie: float = 0.0
    price: float | None = None


@dataclass(frozen=True)
class Phase:
    """One part of a run: `where` is gpu or cpu, the parts are bytes at its peak, `seconds` an estimate."""

    name: str
    where: str
    weights: int = 0
    activations: int = 0
    transient: int = 0
    context: int = 0
    others: int = 0
    slack: int = 0
    seconds: float = 0.0

    @property
    def peak(self) -> int:
        """Bytes on the card, or in RAM for a phase on the cpu."""
        return self.weights + self.activations + self.transient + self.context + self.others + self.slack


@dataclass(frozen=True)
class Plan:
    """How to run a job on a card. Bytes; `vae_tile` is pixels for core's tiled decode, 0 for whole frames.

    `variant` is the one to load, `resident` the diffusion model's bytes to keep on the card, `activations` what the loader
    tells ComfyUI that one evaluation needs, `ram` and `disk` what the computer must have. `seconds` and `money` (US dollars)
    are estimates.
    """

    job: Job
    card: Card
    phases: tuple[Phase, ...]
    verdict: str
    variant: str
    mode: str
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

    @property
    def fits(self) -> bool:
        return self.verdict != DOES_NOT_FIT

    @property
    def peak(self) -> int:
        """The most bytes that the card must hold at once."""
        return max((phase.peak for phase in self.phases if phase.where == "gpu"), default=0)

    def to_json(self) -> str:
        return json.dumps({"version": VERSION, **asdict(self)}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> "Plan":
        """Raises ValueError for a plan of another version of this package."""
        data = json.loads(text)
        version = data.pop("version", None)
        if version != VERSION:
            raise ValueError(
                f"This plan is of version {version}, and version {VERSION} is needed. Run the planner again."
            )
        data["job"], data["card"] = Job(**data["job"]), Card(**data["card"])
        data["phases"] = tuple(Phase(**phase) for phase in data["phases"])
        data["advice"] = tuple(data["advice"])
        return cls(**data)
