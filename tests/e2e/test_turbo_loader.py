"""TurboDiffusion files through the loader: published layouts, conversion, refusals, 8-bit layers, LoRA."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from support import GOLDEN, tiny

T2V = "diffusion_models/TurboWan2.1-T2V-1.3B-480P.pth"
QUIET = (lambda done, total: None, lambda: False, lambda text: None)


class TurboGolden:
    """What the published code computed from recipe inputs, tests/golden/turbowan_t2v_forward.safetensors."""

    def __init__(self):
        path = GOLDEN / "turbowan_t2v_forward.safetensors"
        self.numbers = load_file(path)
        with safe_open(path, "pt") as file:
            self.metadata = file.metadata()
        self.seed, self.topk = int(self.metadata["seed"]), float(self.metadata["sla_topk"])
        self.size = tuple(int(side) for side in self.metadata["latent"].split(","))
        text = tiny.recipe_input("context", self.seed, (1, 37, 4096), scale=0.3)
        self.text = torch.nn.functional.pad(text, (0, 0, 0, 512 - 37))

    def input(self, name):
        return tiny.recipe_input(name, self.seed, (1, 16, *self.size))


@pytest.fixture(scope="module")
def golden():
    return TurboGolden()


@pytest.fixture
def folder(comfyui, tmp_path, monkeypatch):
    """Another folder of diffusion models, where files can be made and spoiled."""
    import folder_paths

    monkeypatch.setitem(
        folder_paths.folder_names_and_paths, "diffusion_models", ([str(tmp_path)], {".pth", ".safetensors"})
    )
    folder_paths.filename_list_cache.pop("diffusion_models", None)
    yield tmp_path
    folder_paths.filename_list_cache.pop("diffusion_models", None)


def load(path, precision="auto"):
    from steadydancer.loaders.turbo import load_turbo, prepared

    return load_turbo([prepared(path, *QUIET)], precision, None, None)[0]


def velocity(model, golden, extra=0):
    """One forward pass as ComfyUI's network does it, at the golden time and input."""
    x = golden.input("x") * golden.numbers["traj.t"][0].float()
    x = torch.cat((x, torch.zeros(1, extra, *golden.size)), 1)
    network = model.model.diffusion_model
    options = model.model_options["transformer_options"]
    time = golden.numbers["out.timestep_first"].float().flatten()
    dtype = network.head.modulation.dtype
    with torch.inference_mode():
        return network(x.to(dtype), time, golden.text.to(dtype), transformer_options=options).float()


def relative(a, b):
    return ((a - b).norm() / b.norm()).item()


def test_the_published_layout_computes_the_published_numbers(folder, golden):
    from steadydancer.turbo import sla

    model, projections = load(tiny.write_turbowan(folder / "TurboWan2.1-T2V-1.3B-480P.pth", "fp32"), "fp32")
    assert type(model.model.model_config).__module__.startswith(("comfy.", "steadydancer."))
    exact = golden.numbers["out.v_first"]
    assert relative(velocity(model, golden), exact) > 0.05  # dense attention is another model
    assert relative(velocity(sla.with_sla(model, projections, golden.topk), golden), exact) < 5e-4


def test_norms_stay_float32_and_projections_are_taken_out(folder):
    model, projections = load(tiny.write_turbowan(folder / "TurboWan2.1-T2V-1.3B-480P.pth"))
    network = model.model.diffusion_model
    assert network.patch_embedding.weight.shape == (256, 16, 1, 2, 2)
    for name, parameter in network.named_parameters():
        wanted = torch.float32 if "norm" in name or "patch_embedding" in name else torch.bfloat16
        assert parameter.dtype == wanted, name
    assert sorted(projections) == [0, 1]
    assert projections[1][0].shape == (128, 128) and projections[1][1].shape == (128,)
    file = load_file(folder / "TurboWan2.1-T2V-1.3B-480P.safetensors")
    assert torch.equal(network.blocks[0].self_attn.norm_q.weight, file["blocks.0.self_attn.norm_q.weight"])


def test_a_norm_rounds_once(comfyui):
    from steadydancer.turbo.ops import turbo_operations

    norm = turbo_operations().RMSNorm(256, eps=1e-6, dtype=torch.bfloat16)
    norm.weight = torch.nn.Parameter(1 + 0.1 * torch.randn(256), requires_grad=False)
    x = torch.randn(2, 20000, 256, dtype=torch.bfloat16)
    exact = x.double() / (x.double().square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight.double()
    found = norm(x)
    assert (found.double() - exact).abs().max() <= (exact.bfloat16().double() - exact).abs().max() + 1e-6


def test_names_of_training_files_are_understood(folder, golden):
    plain = load(tiny.write_turbowan(folder / "TurboWan-plain.pth"))[0]
    tensors = {f"net.{key.replace('.self_attn', '._checkpoint_wrapped_module.self_attn')}": t for key, t in
               tiny.turbowan("turbowan").items()}  # fmt: skip
    torch.save(tensors, folder / "training.pth")
    assert torch.equal(velocity(load(folder / "training.pth")[0], golden), velocity(plain, golden))


@pytest.mark.parametrize(
    "name, extra", [("TurboWan2.1-T2V-14B-480P-quant", 0), ("TurboWan2.2-I2V-A14B-high-720P-quant", 20)]
)
def test_quantised_files_compute_what_their_unpacked_weights_do(folder, golden, name, extra):
    path = tiny.write_turbowan(folder / f"{name}.pth")
    model = load(path)[0]
    weight = model.model.diffusion_model.blocks[0].ffn[0].weight
    assert weight._layout_cls == "SteadyDancerInt8" and weight.shape == (512, 256)
    assert model.model.model_config.unet_config["in_dim"] == 16 + extra
    found, plain = velocity(model, golden, extra), velocity(load(path, "bf16")[0], golden, extra)
    assert torch.equal(found, plain)  # without a GPU it multiplies with the unpacked weight
    whole = load(tiny.write_turbowan(folder / f"{name.removesuffix('-quant')}.pth", "fp32"), "fp32")[0]
    assert 1e-4 < relative(load_and_run(path, "fp32", golden, extra), velocity(whole, golden, extra)) < 0.05


def load_and_run(path, precision, golden, extra=0):
    return velocity(load(path, precision)[0], golden, extra)


def test_int8_quantises_while_loading_as_the_published_file_is(folder):
    made = load(tiny.write_turbowan(folder / "TurboWan2.1-T2V-1.3B-480P.pth", "fp32"), "int8")[0]
    read = load(tiny.write_turbowan(folder / "TurboWan2.1-T2V-1.3B-480P-quant.pth", "fp32"))[0]
    for i in (0, 1):
        for layer in ("self_attn.q", "self_attn.o", "cross_attn.v", "ffn.0", "ffn.2"):
            ours, theirs = (m.model.diffusion_model.get_submodule(f"blocks.{i}.{layer}").weight for m in (made, read))
            assert torch.equal(ours._qdata, theirs._qdata) and torch.equal(ours._params.scale, theirs._params.scale)


def test_room_on_the_card_is_made_before_layers_are_quantised_there(folder, monkeypatch):
    """A layer in float32 and its tiles: on a card that other models fill it would run out of memory."""
    import comfy.model_management as mm
    from steadydancer.quant import int8

    asked, largest, quantise = [], [], int8.quantise
    monkeypatch.setattr(mm, "free_memory", lambda needed, device, *rest, **named: asked.append((needed, device)) or [])

    def watched(x):
        assert asked, "before the first"
        largest.append(x.numel())
        return quantise(x)

    monkeypatch.setattr(int8, "quantise", watched)
    load(tiny.write_turbowan(folder / "TurboWan2.1-T2V-1.3B-480P.pth", "fp32"), "int8")
    assert asked[0][0] >= 12 * max(largest) and asked[0][1] == mm.get_torch_device()


def test_the_8_bit_layer_multiplies_as_published(folder, monkeypatch):
    """The path that a GPU takes, with the emulation behind the operation."""
    from steadydancer.quant import int8, ops

    model = load(tiny.write_turbowan(folder / "TurboWan2.1-T2V-1.3B-480P-quant.pth"))[0]
    layer = model.model.diffusion_model.blocks[0].ffn[0]
    x = torch.randn(2, 70, 256, dtype=torch.bfloat16)
    unpacked = layer(x)
    monkeypatch.setattr(ops, "multiplies_packed", lambda weight, input: True)
    found = layer(x)
    assert torch.equal(found, int8.linear(x, layer.weight._qdata, layer.weight._params.scale, layer.bias))
    assert 0 < relative(found.float(), unpacked.float()) < 0.02


def test_lora_equals_lora_on_the_unpacked_weights(folder, golden):
    import comfy.model_management
    import comfy.sd
    import comfy.utils

    path = tiny.write_turbowan(folder / "TurboWan2.1-T2V-1.3B-480P-quant.pth", "fp32")
    lora = comfy.utils.load_torch_file(str(tiny.write_lora(folder / "lora.safetensors")))

    def with_lora(model):
        patched = comfy.sd.load_lora_for_models(model, None, lora, 0.8, 0)[0]
        comfy.model_management.load_models_gpu([patched])
        return velocity(patched, golden)

    model = load(path)[0]
    plain = load_and_run(path, "fp32", golden)
    found, expected = with_lora(model), with_lora(load(path, "fp32")[0])
    assert model.model.diffusion_model.blocks[0].self_attn.q.side_branch is not None
    assert relative(expected, plain) > 0.01
    assert relative(found, expected) < 0.02  # bfloat16 against float32
    in_bf16 = with_lora(load(path, "bf16")[0])
    assert relative(found, expected) < 2 * relative(in_bf16, expected)


class Opens:
    def __reduce__(self):
        return (os.getcwd, ())


def test_a_pickle_with_code_in_it_is_refused(folder):
    path = folder / "TurboWan-evil.pth"
    torch.save({"blocks": Opens()}, path)
    with pytest.raises(ValueError, match="TurboWan-evil.pth holds more than plain tensors"):
        load(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="TurboWan-evil.pth is damaged"):
        load(path)
    torch.save([1, 2], path)
    with pytest.raises(ValueError, match="not a plain list of tensors"):
        load(path)
    assert not list(folder.glob("*.safetensors*"))


def test_other_models_are_refused_by_name(folder):
    for write, words in (
        (tiny.write_wan_t2v, "mine.safetensors is a Wan model without"),
        (tiny.write_wan_i2v, "mine.safetensors is a Wan model without"),
        (tiny.write_steadydancer, "mine.safetensors is a SteadyDancer model"),
        (tiny.write_vae, "mine.safetensors is not a TurboDiffusion model"),
    ):
        with pytest.raises(ValueError, match=words):
            load(write(folder / "mine.safetensors"))
    torch.save(tiny.cast(tiny.weights("steadydancer_tiny.keys.tsv"), "fp16"), folder / "dancer.pth")
    with pytest.raises(ValueError, match="dancer.pth is a SteadyDancer model"):
        load(folder / "dancer.pth")
    assert not (folder / "dancer.safetensors").exists()  # refused before it is converted


def test_swapped_experts_are_refused_by_name(folder):
    from steadydancer.loaders.turbo import both_experts, load_turbo, prepared

    high, low = (tiny.write_turbowan(folder / f"TurboWan2.2-I2V-A14B-{side}-720P.pth") for side in ("high", "low"))
    assert both_experts(high) == [high, low]
    with pytest.raises(ValueError, match="low-720P.pth is the low-noise expert. Choose .*high-720P"):
        both_experts(low)
    done = prepared(high, *QUIET)
    swapped = done.rename(folder / "low-mine.safetensors")
    with pytest.raises(ValueError, match="low-mine.safetensors was made from TurboWan2.2-I2V-A14B-high-720P.pth"):
        prepared(swapped, *QUIET)
    low.unlink()
    with pytest.raises(ValueError, match="the low-noise one is not beside it"):
        both_experts(high)
    low.write_bytes(high.read_bytes())
    with pytest.raises(ValueError, match="hold the same expert"):
        load_turbo([prepared(high, *QUIET), prepared(low, *QUIET)], "auto", None, None)
    nameless = high.rename(folder / "TurboWan2.2-I2V-A14B.pth")
    with pytest.raises(ValueError, match="its name does not say which"):
        prepared(nameless, *QUIET)


def test_the_conversion_holds_every_tensor_and_is_made_once(folder):
    from steadydancer.loaders.turbo import prepared

    path = tiny.write_turbowan(folder / "TurboWan2.1-T2V-1.3B-480P-quant.pth")
    target = prepared(path, *QUIET)
    found, expected = load_file(target), torch.load(path, weights_only=True)
    assert found.keys() == expected.keys()
    assert all(found[key].dtype == t.dtype and torch.equal(found[key], t) for key, t in expected.items())
    before = target.stat().st_mtime_ns
    assert prepared(path, *QUIET).stat().st_mtime_ns == before
    torch.save({key: t + 1 for key, t in expected.items()}, path)  # another file of the same name
    assert torch.equal(load_file(prepared(path, *QUIET))["head.modulation"], expected["head.modulation"] + 1)
    assert sorted(p.name for p in folder.iterdir() if p.suffix != ".lock") == [path.name, target.name]


def test_an_interrupted_conversion_leaves_nothing(folder, monkeypatch):
    from steadydancer.base.cancel import Cancelled
    from steadydancer.loaders import pickled
    from steadydancer.loaders.turbo import prepared

    path = tiny.write_turbowan(folder / "TurboWan2.1-T2V-1.3B-480P.pth")
    calls = []
    for when in (1, 100):  # while writing, and while comparing
        calls.clear()
        with pytest.raises(Cancelled):
            prepared(path, QUIET[0], lambda when=when: calls.append(1) or len(calls) >= when, QUIET[2])
        assert [p.name for p in folder.iterdir() if p.suffix != ".lock"] == [path.name]
    path.with_suffix(".safetensors.part").write_bytes(b"of a killed process")
    with monkeypatch.context() as patch:
        patch.setattr(pickled.shutil, "disk_usage", lambda folder: type("", (), {"free": 1000}))
        with pytest.raises(ValueError, match="Not enough disk space to convert TurboWan2.1-T2V-1.3B-480P.pth"):
            prepared(path, *QUIET)
    path.with_suffix(".safetensors").write_bytes(b"half a file")
    assert load_file(prepared(path, *QUIET))["head.modulation"].shape == (1, 2, 256)
    tiny.write_vae(path.with_suffix(".safetensors"))
    with pytest.raises(ValueError, match="was not made from it"):
        prepared(path, *QUIET)


@pytest.fixture
def nobody():
    """This process with the rights of a user who owns nothing: to root every folder is writable."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    yield
    os.seteuid(0)


def test_a_folder_that_cannot_be_written_is_named(folder, request):
    path = tiny.write_turbowan(folder / "TurboWan2.1-T2V-1.3B-480P.pth")
    for parent in [folder, *folder.parents][:3]:
        parent.chmod(0o555)
    request.getfixturevalue("nobody")
    with pytest.raises(
        ValueError, match="TurboWan2.1-T2V-1.3B-480P.safetensors could not be written.* Make the folder"
    ):
        load(path)


def test_a_full_disk_is_named_and_nothing_stays(folder, monkeypatch):
    """The disk fills up while the file is written, though it had room before."""
    from steadydancer.loaders import pickled

    path = tiny.write_turbowan(folder / "TurboWan2.1-T2V-1.3B-480P.pth")
    if not os.path.exists("/dev/full"):
        pytest.skip("there is no /dev/full here")
    monkeypatch.setattr(pickled, "open", lambda part, mode: open("/dev/full", mode), raising=False)
    with pytest.raises(ValueError, match="The disk is full: free some space"):
        load(path)
    assert [p.name for p in folder.iterdir() if p.suffix != ".lock"] == [path.name]


def test_a_second_start_waits_for_the_first(folder):
    """Two conversions of one file: the second takes what the first has made, and can be cancelled while it waits."""
    from steadydancer.base.cancel import Cancelled
    from steadydancer.loaders.turbo import prepared

    path = tiny.write_turbowan(folder / "TurboWan2.1-T2V-1.3B-480P.pth")
    converting, go_on, said = threading.Event(), threading.Event(), []

    def wait(done, total):
        converting.set()
        assert go_on.wait(30)

    with ThreadPoolExecutor() as pool:
        first = pool.submit(prepared, path, wait, *QUIET[1:])
        assert converting.wait(30)
        with pytest.raises(Cancelled):
            prepared(path, QUIET[0], lambda: True, said.append)
        second = pool.submit(prepared, path, QUIET[0], lambda: go_on.set() or False, said.append)
        assert second.result(30) == first.result(30)
    assert not said, "the second did not convert"
    assert sorted(p.name for p in folder.iterdir() if p.suffix != ".lock") == [
        path.name,
        path.with_suffix(".safetensors").name,
    ]


def test_a_damaged_pickle_beside_its_conversion_is_named(folder):
    from steadydancer.loaders.turbo import prepared

    path = tiny.write_turbowan(folder / "TurboWan2.1-T2V-1.3B-480P.pth")
    prepared(path, *QUIET)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="480P.pth is damaged or no checkpoint of PyTorch"):
        prepared(path, *QUIET)


def test_a_conversion_stands_for_the_published_file(folder):
    from steadydancer.catalog.catalog import catalogue
    from steadydancer.loaders.build import ComfyPlaces
    from steadydancer.loaders.download.fetch import ensure
    from steadydancer.loaders.turbo import prepared

    path = tiny.write_turbowan(folder / "TurboWan2.1-T2V-1.3B-480P.pth")
    target = prepared(path, *QUIET)
    path.unlink()
    assert ensure(catalogue().files["turbowan2.1-t2v-1.3b-480p"], ComfyPlaces()) == target
    assert prepared(target, *QUIET) == target
