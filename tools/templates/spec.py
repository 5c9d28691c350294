"""What a template is written in: nodes at places, links by name, the files and texts that several of them use."""

from typing import Any

PERSON = "steadydancer_example_person.png"
DANCE = "steadydancer_example_dance.mp4"
POSE = "steadydancer_example_pose.json"
POSES = "steadydancer_example_poses.mp4"
NEGATIVE_POSES = "steadydancer_example_negative_poses.mp4"

HUB = "https://huggingface.co"
REPACKAGED = f"{HUB}/Comfy-Org/Wan_2.1_ComfyUI_repackaged/resolve/main/split_files"
MODELS = {
    "Wan21_SteadyDancer_fp8_e4m3fn_scaled_KJ.safetensors": (
        f"{HUB}/Kijai/WanVideo_comfy_fp8_scaled/resolve/main/SteadyDancer",
        "diffusion_models",
    ),
    "umt5_xxl_fp8_e4m3fn_scaled.safetensors": (f"{REPACKAGED}/text_encoders", "text_encoders"),
    "clip_vision_h.safetensors": (f"{REPACKAGED}/clip_vision", "clip_vision"),
    "wan_2.1_vae.safetensors": (f"{REPACKAGED}/vae", "vae"),
    "wan2.1_t2v_14B_bf16.safetensors": (f"{REPACKAGED}/diffusion_models", "diffusion_models"),
}

PROMPT = (
    "A person in a blue jacket stands in a bright room, facing the camera, and dances: the arms rise and swing, the "
    "hips sway, the knees bend in rhythm. The person smiles, the mouth is closed, the eyes look into the camera. "
    "Even light, steady camera."
)
NEGATIVE = (
    "镜头晃动，色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，JPEG压缩残留，"
    "丑陋的，残缺的，多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，"
    "三条腿，背景人很多，倒着走"
)


def node(
    key: str,
    type: str,
    x: int,
    y: int,
    /,
    *,
    title: str | None = None,
    size: tuple[int | None, int | None] = (None, None),
    **widgets: Any,
) -> dict:
    """One node at a place in pixels. A size of None is the smallest that shows all of it."""
    ours = type.startswith("SteadyDancer")
    properties: dict[str, Any] = {
        "cnr_id": "steadydancer" if ours else "comfy-core",
        "ver": "0.1.0" if ours else "0.30.0",
        "Node name for S&R": type,
    }
    models = [
        {"name": value, "url": f"{MODELS[value][0]}/{value}", "directory": MODELS[value][1]}
        for value in widgets.values()
        if value in MODELS
    ]
    if models:
        properties["models"] = models
    return {
        "key": key,
        "type": type,
        "title": title,
        "pos": [x, y],
        "width": size[0],
        "height": size[1],
        "widgets": widgets,
        "properties": properties,
    }


def note(key: str, x: int, y: int, text: str, height: int, title: str = "Read me", width: int = 1340) -> dict:
    """A Markdown note of a size in pixels."""
    return node(key, "MarkdownNote", x, y, title=title, size=(width, height), **{"": text})


def link(path: str) -> list[str]:
    """'picture.IMAGE > fit.image' as a link."""
    source, target = (end.strip().split(".", 1) for end in path.split(">"))
    return [*source, *target]
