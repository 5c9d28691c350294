"""Every environment variable that means something to this package, in the order of docs/environment.md.

A value in the graph or on the command line wins over a variable; a variable fills in where an input says `auto`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Variable:
    """`kind` is text, flag (true or false), number, list (comma-separated) or secret (never shown).

    `reader` says who reads it; a variable of a library is handed on to that library as it is.
    """

    name: str
    kind: str
    default: str
    reader: str
    help: str


@dataclass(frozen=True)
class Group:
    """Variables that belong together, under one title in `cli.py env` and docs/environment.md."""

    title: str
    variables: tuple[Variable, ...]


GROUPS = (
    Group(
        "Which weights, and where they go",
        (
            Variable(
                "STEADYDANCER_VARIANT",
                "text",
                "auto",
                "everything that says auto",
                "auto, fp8, fp16, int8_convrot or gguf: what auto takes for SteadyDancer.",
            ),
            Variable(
                "STEADYDANCER_GGUF_MODEL",
                "text",
                "Q4_K_M",
                "everything that says auto, with STEADYDANCER_VARIANT=gguf",
                "The GGUF type: Q2_K to Q8_0, or short q2 to q8.",
            ),
            Variable(
                "MODELS_DIR",
                "text",
                "",
                "commands that look at models",
                "The models folder, where it is not the ComfyUI's around.",
            ),
            Variable("DRY_RUN", "flag", "false", "download", "Show what would be fetched, and fetch nothing."),
            Variable(
                "DOWNLOAD_TIMEOUT",
                "number",
                "30",
                "download",
                "Seconds without a byte after which a server counts as silent.",
            ),
            Variable("HF_TOKEN", "secret", "", "the hub's library", "Access token for gated models."),
            Variable("HF_ENDPOINT", "text", "https://huggingface.co", "download", "A mirror of the hub."),
            Variable("HF_HUB_OFFLINE", "flag", "false", "download", "Ask nothing of the network."),
            Variable("CIVITAI_API_KEY", "secret", "", "download", "API key for CivitAI's files that need a login."),
        ),
    ),
    Group(
        "What `cli.py download --from-env` fetches (all flags, false where unset)",
        tuple(
            Variable(name, "flag", "false", "download --from-env", text)
            for name, text in (
                ("ENABLE_STEADYDANCER", "SteadyDancer with everything that it needs."),
                ("ENABLE_DWPOSE", "The pose networks."),
                ("WAN_480P", "Wan 2.1 text to video 1.3B."),
                ("WAN_720P", "Wan 2.1 text to video 14B; with ENABLE_I2V image to video 720p."),
                ("ENABLE_I2V", "Wan 2.1 image to video."),
                (
                    "ENABLE_WAN22_DISTILL",
                    "Wan 2.2 image to video, both experts with their 4-step LoRAs; SteadyDancer's 4-step LoRA with ENABLE_STEADYDANCER.",
                ),
                ("ENABLE_FUN_INP", "Wan 2.2 Fun InP, both experts."),
                ("ENABLE_VACE", "VACE 14B."),
                ("ENABLE_SCAIL", "SCAIL 2."),
                ("ENABLE_ZIMAGE", "Z-Image Turbo."),
                ("ENABLE_ILLUSTRIOUS", "Realism Illustrious with its embeddings."),
                ("ENABLE_CONTROLNET", "ControlNet 1.1; which ones: CONTROLNET_MODELS."),
                ("ENABLE_QWEN_EDIT", "Qwen-Image-Edit; which file: QWEN_EDIT_MODEL."),
                ("ENABLE_VIBEVOICE", "VibeVoice; which size: VIBEVOICE_MODEL."),
                ("ENABLE_GENFOCUS", "Genfocus."),
                ("ENABLE_MVINVERSE", "MVInverse."),
                ("ENABLE_FLASHPORTRAIT", "FlashPortrait."),
                ("ENABLE_STORYMEM", "StoryMem."),
                ("ENABLE_INFCAM", "InfCam."),
            )
        )
        + (
            Variable(
                "CONTROLNET_MODELS", "list", "canny,depth,openpose", "download --from-env", "Names of ControlNets."
            ),
            Variable(
                "QWEN_EDIT_MODEL", "list", "Q4_K_M", "download --from-env", "Q2_K to Q8_0 or q2 to q8, fp8, full."
            ),
            Variable("VIBEVOICE_MODEL", "list", "1.5B", "download --from-env", "1.5B, Large, Large-Q8."),
        ),
    ),
    Group(
        "What fits",
        (
            Variable(
                "GPU_TIER",
                "text",
                "auto",
                "everything that says auto",
                "auto, consumer, prosumer or datacenter: what counts more, speed or quality.",
            ),
            Variable(
                "GPU_MEMORY_MODE",
                "text",
                "auto",
                "planner, everything that says auto",
                "auto, full, model_cpu_offload or sequential_cpu_offload.",
            ),
            Variable(
                "STEADYDANCER_GPU_MEMORY_MODE",
                "text",
                "auto",
                "planner, everything that says auto",
                "The same for SteadyDancer alone; it wins.",
            ),
            Variable(
                "COMFYUI_ARGS",
                "text",
                "",
                "commands that look at models or plan",
                "The flags that ComfyUI runs with: where models are, and how memory is used.",
            ),
        ),
    ),
    Group(
        "What `cli.py queue` fills into a prompt",
        (
            Variable("STEADYDANCER_GUIDE_SCALE", "number", "", "queue", "cfg of SteadyDancer Guider."),
            Variable("STEADYDANCER_CONDITION_GUIDE", "number", "", "queue", "pose_cfg of SteadyDancer Guider."),
            Variable("STEADYDANCER_END_CFG", "number", "", "queue", "Where pose guidance ends, 0 to 1."),
            Variable("STEADYDANCER_SEED", "number", "", "queue", "The seed."),
            Variable("TURBO_STEPS", "number", "", "queue", "Steps of graphs of few steps."),
            Variable("TURBO_GUIDE_SCALE", "number", "", "queue", "cfg of graphs of few steps."),
            Variable("TURBO_CONDITION_GUIDE", "number", "", "queue", "pose_cfg of graphs of few steps."),
            Variable("TURBO_END_CFG", "number", "", "queue", "Where pose guidance ends in graphs of few steps."),
            Variable(
                "DWPOSE_RESOLUTION",
                "number",
                "0",
                "queue, DWPose Estimator on auto",
                "The picture's shorter side in pixels.",
            ),
        ),
    ),
    Group(
        "Poses (DWPose Estimator's inputs that say auto)",
        (
            Variable("DWPOSE_DETECT_BODY", "flag", "true", "DWPose Estimator", "Body keypoints."),
            Variable("DWPOSE_DETECT_HAND", "flag", "true", "DWPose Estimator", "Hands."),
            Variable("DWPOSE_DETECT_FACE", "flag", "true", "DWPose Estimator", "Face."),
        ),
    ),
    Group(
        "The bucket",
        (
            Variable(
                "R2_ENDPOINT", "text", "", "save nodes, r2", "https://ACCOUNT.r2.cloudflarestorage.com, or another S3."
            ),
            Variable("R2_BUCKET", "text", "", "save nodes, r2", "The bucket's name."),
            Variable("R2_ACCESS_KEY_ID", "secret", "", "save nodes, r2", "The key's id."),
            Variable("R2_SECRET_ACCESS_KEY", "secret", "", "save nodes, r2", "The key."),
            Variable("R2_SESSION_TOKEN", "secret", "", "save nodes, r2", "Only for temporary keys."),
            Variable("R2_PREFIX", "text", "", "save nodes, r2", "The folder in the bucket that everything goes into."),
            Variable(
                "R2_PUBLIC_URL",
                "text",
                "",
                "save nodes, r2",
                "Where the bucket is public: addresses are told below it.",
            ),
            Variable("R2_CA_BUNDLE", "text", "", "save nodes, r2", "A file of certificates: a company's own."),
            Variable(
                "ENABLE_R2_SYNC", "flag", "false", "ComfyUI with this package", "Keep the output folder in the bucket."
            ),
            Variable(
                "STEADYDANCER_R2_CONFIG",
                "text",
                "",
                "save nodes, r2",
                "The file of save profiles, where it is elsewhere.",
            ),
            Variable("AWS_CONFIG_FILE", "text", "~/.aws/config", "save nodes, r2", "Where AWS keeps its profiles."),
        ),
    ),
    Group(
        "Of the system and of libraries, read as they are",
        (
            Variable("HUGGING_FACE_HUB_TOKEN", "secret", "", "the hub's library", "The older name of HF_TOKEN."),
            Variable(
                "HTTPS_PROXY", "secret", "", "downloads, buckets, queue", "The proxy for https; it may hold a password."
            ),
            Variable("HTTP_PROXY", "secret", "", "downloads, buckets, queue", "The proxy for http."),
            Variable("ALL_PROXY", "secret", "", "downloads", "The proxy for both."),
            Variable("NO_PROXY", "text", "", "downloads, buckets, queue", "Hosts that are reached without a proxy."),
            Variable(
                "REQUESTS_CA_BUNDLE", "text", "", "downloads, AWS profiles", "A file of certificates: a company's own."
            ),
            Variable("CURL_CA_BUNDLE", "text", "", "downloads", "The same, by curl's name."),
            Variable("AWS_CA_BUNDLE", "text", "", "AWS profiles", "The same for buckets of AWS profiles alone."),
            Variable("SSL_CERT_FILE", "text", "", "queue", "The same for servers with https."),
            Variable("CC", "text", "", "Triton, doctor", "The C compiler."),
            Variable("PWD", "text", "", "cli.py", "The current folder as the shell names it: links stay links."),
        ),
    ),
)
VARIABLES = {variable.name: variable for group in GROUPS for variable in group.variables}


def page() -> str:
    """docs/environment.md, which `python dev.py test unit -- --update-snapshot` writes."""
    lines = ["# Environment variables", "", (__doc__ or "").strip().splitlines()[-1], ""]
    lines += ["`python cli.py env` shows which are set. Secrets are never shown, and never part of a workflow.", ""]
    for group in GROUPS:
        lines += [f"## {group.title}", "", "| name | kind | default | read by | meaning |", "|---|---|---|---|---|"]
        lines += [
            f"| `{one.name}` | {one.kind} | {f'`{one.default}`' if one.default else ''} | {one.reader} | {one.help} |"
            for one in group.variables
        ]
        lines.append("")
    return "\n".join(lines)
