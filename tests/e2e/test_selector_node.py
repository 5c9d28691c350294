"""The selector in a running ComfyUI: it chooses once, and the loader after it is not run again."""


def node(class_type, **inputs):
    return {"class_type": class_type, "inputs": inputs}


def prompt(mark, **selector):
    choice = {"family": "steadydancer", "budget": 24.0, "preference": "balanced", "generation": "30xx, A100 (Ampere)"}
    return {
        "select": node("SteadyDancerVariantSelector", **{**choice, **selector}),
        "loader": node("SteadyDancerLoader", variant=["select", 0], step_distill=False),
        "reason": node("PreviewAny", source=["select", 1]),
        "used": node("PreviewAny", source=["loader", 4], title=mark),
    }


def test_two_identical_prompts_choose_the_same_and_load_once(start_comfy, tmp_path):
    from support.tiny_gguf import write_steadydancer_gguf

    comfy = start_comfy()
    # the published name's pattern, so that nothing is fetched
    folder = comfy.base_directory / "models/diffusion_models"
    write_steadydancer_gguf(folder / "Wan21_I2V_SteadyDancer_fp16-Q6_K_fix_5d_tensor.gguf", "Q6_K")
    first = comfy.run(prompt("first"))
    assert first.error is None, first.error
    assert first.outputs["used"]["text"][0] == "steadydancer/Q6_K"
    assert "Q6_K: 13.7 GB, all of it on the card" in first.outputs["reason"]["text"][0]
    second = comfy.run(prompt("second"))
    assert {"select", "loader"} <= set(second.cached)
    third = comfy.run(prompt("third", preference="smallest", budget=18.0))
    assert "select" not in third.cached
