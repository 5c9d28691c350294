"""Chooses the variant of a model that suits this machine."""

from dataclasses import replace
from typing import Any

from comfy_api.latest import io

from ..base.reason import reason
from ..catalog.catalog import catalogue
from ..machine import gpus
from ..planning import choose
from ..services import loading, this_machine
from ..services.node import Node
from ..services.progress import executing, say
from .loaders import MODELS

GENERATIONS = ("auto", *choose.table()["generations"])


def chosen(family: str, budget: float, preference: str, generation: str) -> choose.Choice:
    """The choice for this card, or for one of `budget` GB of another generation."""
    card = this_machine.present_card()
    if generation != "auto":
        sm = choose.table()["generations"][generation]
        card = gpus.as_like(card.name, card.total, card.free, sm)
    if budget:
        card = replace(card, free=round(budget * 1e9))
    return loading.choice(family, card, preference)


class SteadyDancerVariantSelector(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="SteadyDancerVariantSelector",
            display_name="GGUF / fp8 Selector",
            category=MODELS,
            description="Chooses the variant of a model that suits this GPU, and says why. Connect it to a loader.",
            search_aliases=["gguf", "fp8", "quantisation", "vram", "auto"],
            inputs=[
                io.Combo.Input("family", options=choose.families(), tooltip="Which model is to be chosen from."),
                io.Float.Input(
                    "budget",
                    display_name="budget (GB)",
                    default=0.0,
                    min=0.0,
                    max=1024.0,
                    step=0.5,
                    tooltip="GPU memory in GB that may be used. 0 is all of this GPU that other programs leave.",
                ),
                io.Combo.Input(
                    "preference",
                    options=["auto", *choose.PREFERENCES],
                    default="auto",
                    tooltip="quality: least error that fits. balanced: the most accurate that is at most 5 % slower than the "
                    "fastest. speed: the fastest. smallest: the smallest download. auto is balanced unless GPU_TIER says "
                    "otherwise.",
                ),
                io.Combo.Input(
                    "generation",
                    display_name="card generation",
                    options=list(GENERATIONS),
                    default="auto",
                    tooltip="The card's generation, which decides whether fp8 is multiplied natively. auto asks the card.",
                ),
            ],
            outputs=[
                io.Combo.Output("variant", display_name="variant", options=options()),
                io.String.Output("reason", display_name="reason"),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, **inputs: Any) -> list[str]:
        """The variant: what comes after runs again only when it changes, not when its reason has other numbers."""
        try:
            return [chosen(**inputs).variant]
        except (ValueError, KeyError, TypeError) as err:  # inputs that are linked are not known yet
            return [reason(err)]

    @classmethod
    def execute(cls, family: str, budget: float, preference: str, generation: str) -> io.NodeOutput:
        choice = chosen(family, budget, preference, generation)
        say(executing().node_id, choice.line)
        return io.NodeOutput(choice.variant, choice.reason)


def options() -> list[str]:
    """The variants of all families that offer a choice."""
    families = choose.families()
    return [variant.id for variant in catalogue().variants.values() if variant.family in families]
