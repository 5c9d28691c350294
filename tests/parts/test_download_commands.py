"""`cli.py download`, `list` and `verify`, as a pod's script sees them: output and exit codes."""

import hashlib
import os
import subprocess
import sys

import pytest
import support
from support.cli_against_hub import tensor_file
from support.safetensors_header import write_hollow

FP16 = ("Kijai/WanVideo_comfy", "SteadyDancer/Wan21_I2V_SteadyDancer_fp16.safetensors")


def test_download_verify_and_again_without_a_request(cli, hub, tmp_path):
    data = tensor_file(3_000_000)
    sha256 = hub.put(*FP16, data)
    plan = cli("download", "steadydancer-fp16", "--dry-run")
    assert plan.returncode == 0 and f"{len(data):,}" in plan.stdout and "1 of 1 files to fetch" in plan.stdout
    assert hub.sent == 0
    done = cli("download", "steadydancer-fp16")
    assert done.returncode == 0, done.stderr
    file = tmp_path / "models" / "diffusion_models" / "Wan21_I2V_SteadyDancer_fp16.safetensors"
    assert hashlib.sha256(file.read_bytes()).hexdigest() == sha256
    hub.requests.clear()
    assert cli("download", "steadydancer-fp16").returncode == 0
    verdict = cli("verify", "steadydancer-fp16")
    assert verdict.returncode == 0 and f"1 whole, {len(data):,} bytes; 0 damaged or missing" in verdict.stdout
    assert "; 1 of them here, " in cli("list").stdout
    assert hub.requests == []
    changed = bytearray(data)
    changed[-5] ^= 1
    stat = file.stat()
    file.write_bytes(changed)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    verdict = cli("verify")
    assert verdict.returncode == 1 and "has changed on the disk" in verdict.stdout
    assert cli("verify", "--trust").returncode == 0
    assert cli("verify").returncode == 0


def test_plan_of_the_main_profile_in_bytes_without_network(cli):
    plan = cli("download", "steadydancer", "--dry-run", HF_HUB_OFFLINE="1")
    assert plan.returncode == 0
    assert "16,410,198,058" in plan.stdout and "6 of 6 files to fetch" in plan.stdout
    missing = cli("download", "steadydancer", HF_HUB_OFFLINE="1")
    assert missing.returncode == 1 and "HF_HUB_OFFLINE forbids" in missing.stderr and "Traceback" not in missing.stderr


@pytest.mark.parametrize(
    ("variables", "sentence"),
    [
        ({"http_proxy": "socks5://127.0.0.1:9"}, "http_proxy names a SOCKS proxy"),
        ({"HF_ENDPOINT": "hf-mirror.example"}, "HF_ENDPOINT is 'hf-mirror.example', which is not an address"),
        ({"HF_TOKEN": "hf_canary two"}, "The token in HF_TOKEN holds a blank"),
    ],
    ids=["proxy", "endpoint", "token"],
)
def test_a_fault_of_this_machine_is_one_sentence(cli, hub, variables, sentence):
    hub.put(*FP16, tensor_file(1000))
    plan = cli("download", "steadydancer-fp16", "--dry-run", **variables)
    assert plan.returncode == 0 and sentence in plan.stderr and "1 of 1 files to fetch, about" in plan.stdout
    done = cli("download", "steadydancer-fp16", **variables)
    assert done.returncode == 1 and done.stderr.count("\n") <= 2 and sentence in done.stderr
    assert "in a row" not in done.stderr and "canary" not in done.stdout + done.stderr + plan.stderr
    assert hub.requests == []


def test_once_in_the_plan_is_not_once_in_a_row(cli, hub):
    hub.stop()
    plan = cli("download", "steadydancer-fp16", "--dry-run")
    assert plan.returncode == 0 and "the server refuses connections. Check the network" in plan.stderr


def test_environment_chooses(cli):
    variables = {"ENABLE_STEADYDANCER": "true", "STEADYDANCER_VARIANT": "gguf", "STEADYDANCER_GGUF_MODEL": "q6_k"}
    variables |= {"ENABLE_CONTROLNET": "true", "CONTROLNET_MODELS": "canny, depth", "DRY_RUN": "true"}
    plan = cli("download", "--from-env", HF_HUB_OFFLINE="1", **variables)
    for part in ("steadydancer-Q6_K", "controlnet-canny", "controlnet-depth", "umt5_xxl_fp8"):
        assert part in plan.stdout
    assert cli("download", "--from-env").stdout.startswith("No ENABLE_")
    both = {
        "ENABLE_STEADYDANCER": "1",
        "ENABLE_WAN22_DISTILL": "1",
        "STEADYDANCER_VARIANT": "gguf",
        "ENABLE_XTTS": "on",
    }
    both |= {
        "STEADYDANCER_GGUF_MODEL": "q4",
        "ENABLE_QWEN_EDIT": "true",
        "QWEN_EDIT_MODEL": "full",
        "ENABLE_OTHERS": "no",
    }
    plan = cli("download", "--from-env", HF_HUB_OFFLINE="1", DRY_RUN="true", **both)
    for part in ("steadydancer-Q4_K_M", "cfg_step_distill_rank64", "qwen_image_edit_2511_bf16"):
        assert part in plan.stdout, plan.stderr
    assert "ENABLE_XTTS is true, but no model file of ours" in plan.stderr and "OTHERS" not in plan.stderr
    wrong = cli("download", "--from-env", ENABLE_VACE="perhaps")
    assert wrong.returncode == 1 and "ENABLE_VACE is 'perhaps'" in wrong.stderr


def test_fp8_in_place_of_a_gguf_file_that_is_not_published(cli, hub):
    """Only where the publisher answers that it has none, and loudly."""
    args = ("download", "steadydancer/Q4_K_M", "--or", "fp8", "--dry-run")
    gone = cli(*args)
    assert gone.returncode == 0 and "Wan21_SteadyDancer_fp8" in gone.stdout and "Q4_K_M" not in gone.stdout
    assert "ATTENTION" in gone.stderr and "Taking steadydancer/fp8 in its place." in gone.stderr
    hub.put("MCG-NJU/SteadyDancer-GGUF", "Wan21_SteadyDancer-Q4_K_S_from_fp8.gguf", b"GGUF")
    other = cli(*args)
    assert "has no file" in other.stderr and "Taking steadydancer/fp8" in other.stderr
    hub.put("MCG-NJU/SteadyDancer-GGUF", "Wan21_SteadyDancer-Q4_K_M_from_fp8.gguf", b"GGUF")
    there = cli(*args)
    assert (
        "steadydancer-Q4_K_M" in there.stdout
        and "ATTENTION" not in there.stderr
        and "fp8_e4m3fn_scaled_KJ" not in there.stdout
    )
    unknown = cli("download", "steadydancer/Q5_K_M", "--or", "fp9", "--dry-run")
    assert unknown.returncode == 1 and "Did you mean" in unknown.stderr
    hub.stop()
    silent = cli(*args)
    assert "steadydancer-Q4_K_M" in silent.stdout and "ATTENTION" not in silent.stderr


def test_a_tokenizer_lies_beside_its_model(cli, hub, tmp_path):
    hub.put("microsoft/VibeVoice-1.5B", "model.safetensors", tensor_file(1000))
    texts = ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt")
    for name in (*texts, "model.safetensors"):
        hub.put("Qwen/Qwen2.5-1.5B", name, b"{}")
    for _ in range(2):
        done = cli("download", "vibevoice")
        assert done.returncode == 0, done.stderr
    assert "0 of 5 files to fetch" in done.stdout
    folder = tmp_path / "models" / "vibevoice"
    assert sorted(
        path.name
        for path in (folder / "tokenizer").iterdir()
        if path.suffix in (".json", ".txt") and path.name[0] != "."
    ) == sorted(texts)
    assert (folder / "VibeVoice-1.5B" / "model.safetensors").is_file()


def test_the_models_folder_of_the_comfyui_that_the_package_is_linked_into(hub, tmp_path):
    nodes = tmp_path / "ComfyUI" / "custom_nodes"
    nodes.mkdir(parents=True)
    (nodes / "steadydancer").symlink_to(support.ROOT)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "MODELS_DIR": ""}
    command = [sys.executable, str(nodes / "steadydancer" / "cli.py"), "download", "dwpose", "--dry-run"]
    plan = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, cwd=tmp_path)
    assert f"into {tmp_path / 'ComfyUI' / 'models'}" in plan.stdout, plan.stderr


def test_wrong_names_and_uses(cli):
    assert "Did you mean steadydancer" in cli("download", "steadydncer").stderr
    assert cli("download").returncode == 1
    assert cli("download", "--jobs", "x", "dwpose").returncode == 2
    assert cli("verify", "dwpose").returncode == 1
    listed = cli("list", "steadydancer")
    assert listed.returncode == 0 and "steadydancer/Q4_K_M" in listed.stdout
    assert cli("list").returncode == 0


def test_auto_is_chosen_for_the_card_that_is_named(cli, tmp_path):
    def planned(*args, **variables):
        done = cli("download", "steadydancer/auto", "--dry-run", *args, HF_HUB_OFFLINE="1", **variables)
        assert done.returncode == 0, done.stderr
        return done.stdout

    card = planned("--gpu", "RTX 4080 SUPER")
    assert "auto is steadydancer/Q6_K for RTX 4080 SUPER: Q6_K: 13.7 GB, 32 of 40 blocks" in card
    assert "steadydancer-Q6_K (name from the listing)" in card
    assert "auto is steadydancer/Q6_K for 16 GB card" in planned("--vram", "16", "--sm", "89")
    assert "auto is steadydancer/fp16" in planned("--gpu", "h200") and "fp16.safetensors" in planned("--gpu", "h200")
    said = planned("--gpu", "RTX 4090", STEADYDANCER_VARIANT="gguf", STEADYDANCER_GGUF_MODEL="q5_k_s")
    assert "auto is steadydancer/Q5_K_S for RTX 4090: STEADYDANCER_VARIANT says so" in said


def test_without_a_card_it_keeps_fp8_and_says_why(cli, tmp_path):
    """The tests' machine has none; a GPU would be asked for its name."""
    done = cli(
        "download", "--from-env", "--dry-run", HF_HUB_OFFLINE="1", ENABLE_STEADYDANCER="true", CUDA_VISIBLE_DEVICES=""
    )
    assert "auto is steadydancer/fp8 for this computer: there is no GPU to choose for" in done.stdout
    assert "--gpu or --vram names one" in done.stdout and "Wan21_SteadyDancer_fp8" in done.stdout
    here = tmp_path / "models" / "diffusion_models" / "Wan21_I2V_SteadyDancer_fp16.safetensors"
    here.parent.mkdir(parents=True)
    write_hollow(here, {"blocks.0.ffn.0.weight": ("F16", (8,), 16)})
    kept = cli("download", "steadydancer", "--dry-run", HF_HUB_OFFLINE="1", CUDA_VISIBLE_DEVICES="")
    assert "auto is steadydancer/fp16 for this computer" in kept.stdout and "it is already here" in kept.stdout
    refused = cli("download", "steadydancer", "--gpu", "this", CUDA_VISIBLE_DEVICES="")
    assert refused.returncode == 1 and refused.stderr.startswith("--gpu this: there is no GPU that torch can use")


def test_auto_is_said_once_however_often_it_is_meant(cli):
    done = cli("download", "steadydancer", "steadydancer-turbo", "--dry-run", "--gpu", "RTX 4090", HF_HUB_OFFLINE="1")
    assert done.stdout.count("auto is") == 1
    assert "--sm says more about --vram" in cli("download", "steadydancer", "--sm", "89").stderr


def test_what_no_mode_allows_is_not_downloaded(cli):
    done = cli("download", "steadydancer", "--dry-run", "--gpu", "RTX 4060", GPU_MEMORY_MODE="full")
    assert done.returncode == 1 and "Nothing of steadydancer fits whole into 7.7 GB" in done.stderr


def test_the_cards_of_the_user_folder_count(cli, tmp_path):
    file = tmp_path / "user" / "__steadydancer" / "gpus.toml"
    file.parent.mkdir(parents=True)
    file.write_text('[gpus]\n"RTX 4070" = { gib = 12, sm = 89, bf16 = 58, bandwidth = 504, pcie = 25 }\n')
    done = cli("download", "steadydancer", "--dry-run", "--gpu", "RTX 4070", HF_HUB_OFFLINE="1")
    assert "auto is steadydancer/Q8_0 for RTX 4070" in done.stdout, done.stderr
