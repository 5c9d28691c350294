"""A node that makes a smaller file of a model."""

from comfy_api.latest import io, ui

from ..convert.recipe import TARGETS
from ..services import convertible
from ..services.node import Node
from .loaders import MODELS


class SteadyDancerConvertModel(Node):
    @classmethod
    def define_schema(cls) -> io.Schema:
        sources = convertible.sources()
        return io.Schema(
            node_id="SteadyDancerConvertModel",
            display_name="Convert Model",
            category=MODELS,
            description="Makes a smaller file of a model, in a format that ComfyUI itself loads. It is made once.",
            search_aliases=["quantise", "quantize", "int8", "convrot", "fp8", "bf16"],
            is_output_node=True,
            inputs=[
                io.Combo.Input(
                    "source",
                    options=sources,
                    default="steadydancer/fp16",
                    tooltip="The model in 16 or 32 bits. A variant that is not here is downloaded first (SteadyDancer's fp16: "
                    "32.8 GB). Your own safetensors files in diffusion_models are listed last.",
                ),
                io.Combo.Input(
                    "to",
                    options=list(TARGETS),
                    default="int8_convrot",
                    tooltip="int8_convrot: half of fp16, closer to it than fp8, fast on RTX 20 to 40, A100 and H100 with "
                    "PyTorch for CUDA 13. fp8_scaled: as small, fast on RTX 40 and 50. bf16, fp16: half of fp32.",
                ),
            ],
            outputs=[
                io.Combo.Output("variant", display_name="variant", options=sources),
                io.String.Output("report", display_name="report"),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, source: str, to: str) -> list:
        """Runs again when the file that was made is taken away; what is made from it is loaded again when it changes."""
        return convertible.fingerprint(source, to)

    @classmethod
    def execute(cls, source: str, to: str) -> io.NodeOutput:
        report = convertible.converted(source, to)
        lines = [f"{report.bytes / 1e9:.2f} GB  {report.path}"]
        if report.new:
            lines.append(f"{report.changed} tensors changed, the most by {report.worst:.2%}: {report.worst_name}")
        text = "\n".join(lines)
        return io.NodeOutput(convertible.name_of(report.path), text, ui=ui.PreviewText(text))
