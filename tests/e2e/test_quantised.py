"""GGUF and fp8 in ComfyUI's own loader and network, against float32."""

import pytest
import torch
from support import tiny
from support.evaluation import loaded, relative, velocity
from support.gguf_writer import BY_NAME
from support.golden import Golden
from support.tiny_gguf import write_steadydancer_gguf

KINDS = ["F16", "BF16", *BY_NAME]
FAMILIES = [["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"], ["Q4_0", "Q5_0", "Q8_0"], ["Q4_1", "Q5_1"]]


@pytest.fixture(scope="module")
def golden():
    return Golden()


@pytest.fixture(scope="module")
def gguf_path(comfyui):
    return lambda kind: write_steadydancer_gguf(comfyui / "models/diffusion_models" / f"dancer-{kind}.gguf", kind)


def load(path):
    from steadydancer.loaders.build import load_diffusion

    return load_diffusion([path])


def test_every_type_computes_what_float32_does_within_its_bits(comfyui, gguf_path, golden):
    exact = golden.numbers["out.noise_pred"][None]
    errors = {}
    for kind in KINDS:
        model = load(gguf_path(kind))
        assert type(model.model).__name__ == "SteadyDancerBase"
        errors[kind] = relative(velocity(model, golden), exact)
        print(f"{kind:8} error against float32 {errors[kind]:8.4%}")
    assert errors["Q8_0"] < 0.01 and errors["F16"] < 0.005 and errors["BF16"] < 0.01
    for family in FAMILIES:
        assert [errors[kind] for kind in family] == sorted((errors[kind] for kind in family), reverse=True), family
    assert errors["Q4_K"] < 0.15 and errors["Q6_K"] < 0.03 and errors["IQ4_NL"] < 0.15


def test_packed_weights_have_true_shapes_and_packed_sizes(comfyui, gguf_path):
    from comfy.quant_ops import QuantizedTensor

    model = load(gguf_path("Q4_K"))
    weight = model.model.diffusion_model.blocks[0].ffn[0].weight
    assert isinstance(weight, QuantizedTensor) and weight.ndim == 2
    assert weight.nbytes == weight.numel() // 256 * 144
    whole = load(tiny.write_steadydancer(comfyui / "models/diffusion_models/dancer.safetensors", "fp16"))
    count = {True: 0, False: 0}
    for packed, patcher in ((True, model), (False, whole)):
        count[packed] = sum(p.numel() for p in patcher.model.diffusion_model.parameters())
    assert count[True] == count[False]
    assert model.model_size() < 0.8 * whole.model_size()


def test_the_published_files_quirks_are_restored(comfyui, gguf_path, golden):
    """Norms that lost their leading 1, and a quantised in_proj_weight, arrive as plain float32."""
    from steadydancer.formats.gguf_file import open_gguf

    path = gguf_path("Q5_0")
    file = open_gguf(path)
    key = "condition_embedding_align."
    assert file.tensors[key + "norm1.weight"].shape == (128, 1, 1)
    assert file.tensors[key + "cross_attn.in_proj_weight"].kind == "Q5_0"
    network = load(path).model.diffusion_model
    assert network.condition_embedding_align.norm1.weight.shape == (1, 128, 1, 1)
    for name, parameter in network.named_parameters():
        if name.startswith(("condition_embedding_", "patch_embedding")):
            assert parameter.dtype == torch.float32 and type(parameter.data) is torch.Tensor, name


def lora_of(comfyui, rank=4):
    import comfy.utils

    path = tiny.write_lora(comfyui / f"models/loras/side-{rank}.safetensors", rank)
    return comfy.utils.load_torch_file(str(path))


def dense_twin(path):
    """The file's network with its packed weights unpacked into ordinary ones."""
    twin = load(path).model.diffusion_model
    for module in twin.modules():
        if hasattr(module, "side_branch") and module.weight is not None:
            weight = module.weight.to(torch.float32)
            weight = weight.dequantize() if hasattr(weight, "_qdata") else weight
            module.weight = torch.nn.Parameter(weight, requires_grad=False)
    return twin


def add_to(network, lora, strength):
    layers = {key.rpartition(".lora_down")[0] for key in lora if "lora_down" in key}
    for layer in layers:
        module = network.get_submodule(layer.removeprefix("diffusion_model."))
        up, down = lora[f"{layer}.lora_up.weight"].float(), lora[f"{layer}.lora_down.weight"].float()
        module.weight = torch.nn.Parameter(module.weight + strength * up @ down, requires_grad=False)
    return network


@pytest.mark.parametrize("kind", ["Q4_K", "Q8_0"])
def test_lora_equals_lora_on_the_unpacked_model(comfyui, gguf_path, golden, kind):
    import comfy.sd

    model = load(gguf_path(kind))
    lora = lora_of(comfyui)
    plain = velocity(loaded(model), golden)
    expected = velocity(model, golden, add_to(dense_twin(gguf_path(kind)), lora, 0.5 + 0.7))
    with_one = comfy.sd.load_lora_for_models(model, None, lora, 0.5, 0)[0]
    with_two = comfy.sd.load_lora_for_models(with_one, None, lora, 0.7, 0)[0]
    found = velocity(loaded(with_two), golden)
    layer = model.model.diffusion_model.blocks[0].self_attn.q
    ((down, up),) = layer.side_branch.ready.values()
    assert down.shape[0] == up.shape[1] == 8 and not layer.weight_function and hasattr(layer.weight, "_qdata")
    assert relative(found, plain) > 0.01
    assert relative(found, expected) < 1e-3
    assert torch.equal(velocity(loaded(model), golden), plain)  # the model itself is as it was


def test_packed_weights_are_not_saved_as_if_they_were_numbers(comfyui, gguf_path, tmp_path):
    import comfy.sd

    with pytest.raises(ValueError, match="cannot be saved"):
        comfy.sd.save_checkpoint(str(tmp_path / "saved.safetensors"), load(gguf_path("Q4_K")), None, None, None)
    assert not list(tmp_path.iterdir())


def test_a_lora_of_another_models_size_is_left_out(comfyui, gguf_path, golden, caplog):
    """As ComfyUI does with plain weights: the log says so, and the run goes on."""
    import comfy.sd

    model = load(gguf_path("Q4_K"))
    plain = velocity(loaded(model), golden)
    lora = {key: tensor.repeat(1, 2) if "lora_down" in key else tensor for key, tensor in lora_of(comfyui).items()}
    wrong = loaded(comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0)[0])
    assert torch.allclose(velocity(wrong, golden), plain, atol=1e-5)
    assert "ERROR lora" in caplog.text
    wrong.detach()


def factors(*shapes):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator) * 0.3 for shape in shapes]


OTHER_PATCHES = {  # names of tensors → shapes for a weight [out, in]
    "DoRA": lambda out, into: {"lora_up.weight": (out, 4), "lora_down.weight": (4, into), "dora_scale": (out, 1)},
    "LoHa": lambda out, into: {
        "hada_w1_a": (out, 4), "hada_w1_b": (4, into), "hada_w2_a": (out, 4), "hada_w2_b": (4, into)
    },
    "LoKr": lambda out, into: {"lokr_w1": (4, 4), "lokr_w2": (out // 4, into // 4)},
    "diff": lambda out, into: {"diff": (out, into)},
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHER_PATCHES)
def test_a_patch_that_is_no_plain_lora_unpacks_the_weight(comfyui, gguf_path, golden, kind):
    import comfy.lora
    import comfy.sd

    model = load(gguf_path("Q4_K"))
    plain = velocity(loaded(model), golden)
    twin = dense_twin(gguf_path("Q4_K"))
    layer = "diffusion_model.blocks.0.ffn.0"
    weight = twin.blocks[0].ffn[0].weight
    shapes = OTHER_PATCHES[kind](*weight.shape)
    lora = {f"{layer}.{name}": tensor for name, tensor in zip(shapes, factors(*shapes.values()), strict=True)}
    patched = loaded(comfy.sd.load_lora_for_models(model, None, lora, 0.5, 0)[0])
    assert model.model.diffusion_model.blocks[0].ffn[0].side_branch is None
    found = velocity(patched, golden)
    key = f"{layer}.weight"
    weight.data = comfy.lora.calculate_weight(patched.patches[key], weight.data.clone(), key)
    assert relative(found, plain) > 1e-3
    assert relative(found, velocity(model, golden, twin)) < 1e-5
    assert torch.equal(velocity(loaded(model), golden), plain)


def test_torch_compile_gives_the_same(comfyui, gguf_path, golden):
    model = loaded(load(gguf_path("Q4_K")))
    layer = model.model.diffusion_model.blocks[0].ffn[0]
    x = torch.randn(1, 32, layer.in_features)
    with torch.inference_mode():
        torch._dynamo.reset()
        compiled = torch.compile(layer, backend="aot_eager")
        assert torch.allclose(compiled(x), layer(x), atol=1e-5)
        block = torch.compile(model.model.diffusion_model.blocks[0], backend="aot_eager", fullgraph=False)
        network = model.model.diffusion_model
        plain = velocity(model, golden)
        original, network.blocks[0] = network.blocks[0], block
        assert relative(velocity(model, golden), plain) < 1e-5
        network.blocks[0] = original


def test_torch_compile_does_not_trace_how_kernels_are_tried(comfyui, monkeypatch):
    """On a GPU the trial would else be part of every compiled layer."""
    from steadydancer.quant import layout, trials

    def found_out(*args):
        return bool(torch.zeros(3).sum() == 0)

    monkeypatch.setattr(trials, "capable", lambda device, dtype: True)
    monkeypatch.setattr(trials, "works", found_out)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    graphs = []
    compiled = torch.compile(
        lambda x: x + 1 if layout.multiplies_8_bits(x.device, x.dtype) else x - 1,
        backend=lambda graph, _: graphs.append(graph) or graph.forward,
        fullgraph=True,
    )
    assert compiled(torch.zeros(2)).tolist() == [1, 1]
    assert "zeros" not in graphs[0].code


def test_torch_compile_keeps_a_lora(comfyui, gguf_path):
    """A layer with a side branch compiles whole, before and after the branch was first used."""
    import comfy.sd

    model = loaded(comfy.sd.load_lora_for_models(load(gguf_path("Q4_K")), None, lora_of(comfyui), 1.0, 0)[0])
    layer = model.model.diffusion_model.blocks[0].self_attn.q
    x = torch.randn(1, 32, layer.in_features)
    with torch.inference_mode():
        torch._dynamo.reset()
        compiled = torch.compile(layer, backend="aot_eager", fullgraph=True)
        first = compiled(x)
        assert layer.side_branch is not None
        assert torch.allclose(first, layer(x), atol=1e-5) and torch.allclose(compiled(x), first)


@pytest.mark.parametrize(("extra", "whole"), [(1.5, True), (0.1, False)])
def test_what_a_lora_takes_is_counted_before_all_is_put_on_the_card(comfyui, gguf_path, extra, whole):
    """Room for the model and a part of its LoRA is no room for both: something must stay in RAM."""
    import comfy.sd

    model = comfy.sd.load_lora_for_models(load(gguf_path("Q4_K")), None, lora_of(comfyui, rank=64), 1.0, 0)[0]
    model.partially_load(torch.device("cpu"), model.model_size() * 2)
    layers = [module.side_branch for module in model.model.modules() if getattr(module, "side_branch", None)]
    branches = sum(branch.nbytes for branch in layers)
    model.detach()
    model.partially_load(torch.device("cpu"), model.model_size() + int(extra * branches))
    assert branches > 0 and model.model.model_lowvram is not whole
    model.detach()


def test_partly_offloaded_it_computes_the_same(comfyui, gguf_path, golden):
    """ComfyUI's static placement with room for half of the model, on the CPU as both devices."""
    import comfy.sd

    model = load(gguf_path("Q4_K"))
    lora = lora_of(comfyui)
    patched = comfy.sd.load_lora_for_models(model, None, lora, 1.0, 0)[0]
    whole = velocity(loaded(patched), golden)
    patched.detach()
    patched.patch_model(torch.device("cpu"), lowvram_model_memory=model.model_size() // 2)
    assert model.model.model_lowvram
    assert torch.equal(velocity(patched, golden), whole)
    patched.partially_unload(torch.device("cpu"), model.model_size())
    assert torch.equal(velocity(patched, golden), whole)
    patched.detach()
    assert all(getattr(module, "side_branch", None) is None for module in model.model.modules())


def test_dynamic_memory_reads_the_files_own_bytes(comfyui, gguf_path, golden, monkeypatch):
    """With dynamic VRAM a packed tensor says where it lies in the file, and ComfyUI reads it from there as it is.

    ComfyUI itself places models statically on a CPU, whatever is switched on, so the pages of a GPU are not part of this.
    """
    import comfy.memory_management
    import comfy_aimdo.control

    path = gguf_path("Q4_K")
    plain = velocity(load(path), golden)
    if comfy_aimdo.control.lib is None and not comfy_aimdo.control.init():
        pytest.skip("comfy-aimdo has no library for this system")
    monkeypatch.setattr(comfy.memory_management, "aimdo_enabled", True)
    model = load(path)
    weight = model.model.diffusion_model.blocks[0].ffn[0].weight
    place = weight._qdata.untyped_storage()._comfy_tensor_file_slice
    assert path.read_bytes()[place.offset : place.offset + place.size] == weight._qdata.numpy().tobytes()
    assert weight._qdata.storage_offset() == 0 and place.size == weight.nbytes
    with open(path, "rb") as file:  # what ComfyUI does for a page in RAM
        weight._qdata.untyped_storage()._comfy_tensor_file_slice = place._replace(file_ref=file)
        page = torch.zeros(comfy.memory_management.vram_aligned_size([weight]), dtype=torch.uint8)
        (copy,) = comfy.memory_management.interpret_gathered_like([weight], page)
        assert comfy.memory_management.read_tensor_file_slice_into(weight, copy)
    assert torch.equal(copy.dequantize(), weight.dequantize())
    assert torch.equal(velocity(model, golden), plain)


def write_fp8(folder, dtype, scaled, marker=2):
    """Linear weights in fp8; scales as Kijai's converter picks them: the largest weight becomes the format's largest."""
    tensors = {"scaled_fp8": torch.zeros(marker, dtype=dtype)} if scaled else {}
    for key, tensor in tiny.weights("steadydancer_tiny.keys.tsv").items():
        if key.endswith(".weight") and tensor.ndim == 2 and not key.startswith("condition_embedding_"):
            scale = tensor.abs().max().reshape(1) / torch.finfo(dtype).max if scaled else torch.ones(1)
            tensors[key] = (tensor / scale).to(dtype)
            if scaled:
                tensors[key.removesuffix("weight") + "scale_weight"] = scale
        else:
            tensors[key] = tensor
    name = str(dtype).removeprefix("torch.")
    return tiny.write(folder / f"dancer-{name}{'-scaled' if scaled else ''}.safetensors", tensors)


@pytest.mark.parametrize("scaled", [True, False], ids=["scaled", "plain"])
@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_fp8_is_loaded_in_its_own_format(comfyui, tmp_path, golden, dtype, scaled):
    model = load(write_fp8(tmp_path, dtype, scaled))
    weight = model.model.diffusion_model.blocks[0].ffn[0].weight
    if scaled:
        assert weight._qdata.dtype == dtype
    error = relative(velocity(model, golden), golden.numbers["out.noise_pred"][None])
    print(f"{dtype}, {'scaled' if scaled else 'plain'}: error against float32 {error:.4%}")
    assert error < {torch.float8_e4m3fn: 0.06, torch.float8_e5m2: 0.12}[dtype]


@pytest.mark.parametrize(
    ("dtype", "marker", "card", "multiplied"),
    [
        (torch.float8_e4m3fn, 0, True, True),
        (torch.float8_e4m3fn, 0, False, False),
        (torch.float8_e4m3fn, 2, True, False),
        (torch.float8_e5m2, 0, True, False),
    ],
)
def test_fp8_is_multiplied_where_card_and_file_want_it(
    comfyui, tmp_path, golden, monkeypatch, dtype, marker, card, multiplied
):
    """A marker of two elements asks for 16 bits. Two e5m2 matrices no GPU multiplies. PyTorch has the fp8 product on the CPU too, so it runs here."""
    import comfy.model_management

    monkeypatch.setattr(comfy.model_management, "supports_fp8_compute", lambda device=None: card)
    products = []
    product = torch.nn.functional.scaled_mm if hasattr(torch.nn.functional, "scaled_mm") else torch._scaled_mm

    def counted(*args, **kwargs):
        products.append(args[1].dtype)
        return product(*args, **kwargs)

    where = torch.nn.functional if hasattr(torch.nn.functional, "scaled_mm") else torch
    monkeypatch.setattr(where, product.__name__, counted)
    model = load(write_fp8(tmp_path, dtype, scaled=True, marker=marker))
    error = relative(velocity(model, golden), golden.numbers["out.noise_pred"][None])
    print(f"{dtype}, fp8 product {multiplied}: error against float32 {error:.4%}")
    assert bool(products) is multiplied
    assert error < {torch.float8_e4m3fn: 0.15, torch.float8_e5m2: 0.12}[dtype]


def test_fp8_with_scales_of_blocks_is_refused(comfyui):
    tensors = {
        "blocks.0.self_attn.q.weight": torch.zeros(256, 256, dtype=torch.float8_e4m3fn),
        "blocks.0.self_attn.q.scale_weight": torch.ones(256, 4, 1),
    }
    path = tiny.write(comfyui / "models/diffusion_models/blockwise.safetensors", tensors)
    with pytest.raises(ValueError, match="blockwise.safetensors has a scale for every block"):
        load(path)
