"""Chooses the variant of a model that suits this machine."""

from comfy_api.latest import io

from ..catalog.catalog import catalogue
from ..loaders import build
from ..planning import selector
from ..services.this_machine import this_card

GENERATIONS = ("auto", *selector.rules()["generations"])


def choose(family: str, budget=0.0, preference="auto", generation="auto", rather_here=False) -> selector.Choice:
    """The variant for this card, or for one of `budget` GB of another generation."""
    card = this_card()
    sm = card.sm if generation == "auto" else selector.rules()["generations"][generation]
    places = build.ComfyPlaces()

    def here(variant):
        return all(places.find(catalogue().files[file]) for file in variant.diffusion)

    return selector.select(family, selector.Card(card.name, budget or card.gb, sm), preference, here, rather_here)


class SteadyDancerVariantSelector(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        known = {variant.id for family in selector.families() for variant in selector.formats(family).values()}
        options = [variant for variant in catalogue().variants if variant in known]
        return io.Schema(
            node_id="SteadyDancerVariantSelector",
            display_name="GGUF / fp8 Selector",
            category="SteadyDancer",
            description="Chooses the variant of a model that suits this GPU, and says why. Connect it to a loader.",
            search_aliases=["gguf", "fp8", "quantisation", "vram", "auto"],
            inputs=[
                io.Combo.Input("family", options=selector.families(), tooltip="Which model is to be chosen from."),
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
                    options=["auto", *selector.PREFERENCES],
                    default="auto",
                    tooltip="quality: least error that fits. balanced: fast, and hard to tell from the original. speed: all "
                    "weights on the card. smallest: the smallest download. auto is balanced unless GPU_TIER says otherwise.",
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
                io.Combo.Output("variant", display_name="variant", options=options),
                io.String.Output("reason", display_name="reason"),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, **inputs):
        """The variant: what comes after runs again only when it changes, not when its reason has other numbers."""
        try:
            return [choose(**inputs).variant]
        except (ValueError, KeyError, TypeError) as err:  # inputs that are linked are not known yet
            return [str(err)]

    @classmethod
    def execute(cls, family, budget, preference, generation) -> io.NodeOutput:
        choice = choose(family, budget, preference, generation)
        return io.NodeOutput(choice.variant, choice.reason)
