"""Our GPU kernels are tried before they are used, and torch does what one of them cannot: shown in Triton's interpreter.

The interpreter cuts bfloat16 off where a GPU rounds, so it stands for a machine whose bfloat16 is broken, too.
"""

import contextlib

import pytest
import torch

pytest.importorskip("triton")
CPU, HALF = torch.device("cpu"), torch.float16
GGUF = [6, 8, 10, 11, 12, 13, 14, 20, 23]


@pytest.fixture
def trials(comfyui, monkeypatch):
    """The trials with nothing found out yet, on a CPU that passes for a capable GPU."""
    from steadydancer.quant import trials

    monkeypatch.setattr(trials, "found", {})
    monkeypatch.setattr(trials, "said", set())
    monkeypatch.setattr(trials, "capable", lambda device, dtype: dtype in (torch.float16, torch.bfloat16))
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    return trials


@pytest.fixture
def kernels(trials):
    """Name → trial, its further arguments, and the module and name of a function that it calls."""
    from steadydancer.quant import triton_int8, triton_kernels
    from steadydancer.turbo import ops, sla, triton_norms, triton_sla

    return {
        "unpacking": (trials.unpacking, (12,), triton_kernels, "dequantise"),
        "8-bit": (trials.multiplying, (), triton_int8, "linear"),
        "quantiser": (trials.multiplying, (), triton_int8, "quantise"),
        "norms": (ops.normalising, (), triton_norms, "norm"),
        "attention": (sla.attending, (), triton_sla, "sla"),
        "means": (sla.attending, (), triton_sla, "block_means"),
        "linear attention": (sla.attending, (), triton_sla, "linear_state"),
    }


NAMES = ["unpacking", "8-bit", "quantiser", "norms", "attention", "means", "linear attention"]


def breaks(monkeypatch, module, name, error):
    def broken(*args, **kwargs):
        raise error

    monkeypatch.setattr(module, name, broken)


@pytest.mark.parametrize("name", NAMES)
def test_a_kernel_that_works_is_used(trials, kernels, name, caplog):
    trial, arguments, *_ = kernels[name]
    assert trials.works(trial, CPU, HALF, *arguments)
    assert not caplog.text


@pytest.mark.parametrize("name", ["unpacking", "8-bit", "norms", "attention"])
def test_trials_have_room_for_bfloat16(trials, kernels, name, monkeypatch):
    """The type that runs use, rounded here as a GPU rounds it; as the interpreter cuts it off, no kernel would be used."""
    from support import interpreted_bf16

    trial, arguments, *_ = kernels[name]
    interpreted_bf16.install(monkeypatch)
    ours, exact, limit = trial(CPU, torch.bfloat16, *arguments)
    error = ((ours.float() - exact.float()).norm() / exact.float().norm()).item()
    print(f"{name}: {error:.1e} of {limit:.0e}")
    assert error <= limit / 3


@pytest.mark.parametrize("number", GGUF)
def test_every_packed_type_with_a_kernel_is_tried_by_itself(trials, number):
    from steadydancer.quant import layout, triton_kernels

    assert trials.works(trials.unpacking, CPU, HALF, number)
    assert tuple(triton_kernels.KERNELS) == layout.UNPACKED_BY_KERNEL


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("why", ["Failed to find C compiler.", "out of resource: shared memory, Required: 131072"])
def test_a_kernel_that_fails_is_left_alone_with_a_line(trials, kernels, name, why, monkeypatch, caplog):
    trial, arguments, module, function = kernels[name]
    with monkeypatch.context() as patch:
        breaks(patch, module, function, RuntimeError(why))
        assert not trials.works(trial, CPU, HALF, *arguments)
    assert not trials.works(trial, CPU, HALF, *arguments), "remembered: it would fail in every layer"
    assert caplog.text.count(why) == 1 and "slower" in caplog.text
    others = {entry[0]: entry for key, entry in kernels.items() if entry[0] is not trial}
    assert all(trials.works(other, CPU, HALF, *entry[1]) for other, entry in others.items()), "the others still run"


@pytest.mark.parametrize("name", NAMES)
def test_full_memory_says_nothing_about_a_kernel(trials, kernels, name, monkeypatch, caplog):
    trial, arguments, module, function = kernels[name]
    for error in (torch.OutOfMemoryError("CUDA out of memory."), RuntimeError("Triton Error [CUDA]: out of memory")):
        with monkeypatch.context() as patch:
            breaks(patch, module, function, error)
            assert not trials.works(trial, CPU, HALF, *arguments)
    assert trials.works(trial, CPU, HALF, *arguments) and not caplog.text


@pytest.mark.parametrize("name", ["unpacking", "8-bit", "norms", "attention"])
def test_a_kernel_with_wrong_numbers_is_not_used(trials, kernels, name, monkeypatch, caplog):
    trial, arguments, module, function = kernels[name]
    right = getattr(module, function)
    for wrong in (lambda out: 1.1 * out, lambda out: torch.full_like(out, torch.nan)):
        trials.found.clear()
        monkeypatch.setattr(module, function, lambda *args, wrong=wrong: wrong(right(*args)))
        assert not trials.works(trial, CPU, HALF, *arguments)
    assert "its numbers are off by" in caplog.text


def test_each_device_and_type_is_tried(trials, kernels, monkeypatch):
    tried = []

    def trial(device, dtype):
        tried.append((device, dtype))
        return torch.ones(1), torch.ones(1), 0.0

    for device in (torch.device("cuda", 0), torch.device("cuda", 1)):
        for dtype in (torch.float16, torch.bfloat16):
            assert trials.works(trial, device, dtype) and trials.works(trial, device, dtype)
    assert len(tried) == 4


@pytest.mark.parametrize(
    ("capability", "multiplied"), [((8, 0), True), ((8, 9), True), ((10, 0), False), ((10, 3), False), ((12, 0), True)]
)
def test_8_bit_products_where_they_are_faster(trials, monkeypatch, capability, multiplied):
    """On B200 Triton compiles them to older cards' instructions: slower than 16 bits."""
    from steadydancer.quant import layout

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert layout.multiplies_8_bits(CPU, HALF) is multiplied


def test_layers_go_on_in_torch(trials, kernels, monkeypatch):
    """The functions that runs call, with kernels that fail: the numbers are torch's."""
    from steadydancer.quant import int8, layout
    from steadydancer.turbo import attention, ops, sla

    for _, _, module, function in kernels.values():
        breaks(monkeypatch, module, function, RuntimeError("no kernel image is available"))
    q, k, v = (trials.pattern(1, 200, 2, 128, device=CPU, dtype=HALF) for _ in range(3))
    assert torch.equal(sla.sparse_attention(q, k, v, None, 0.5), attention.sla(q, k, v, None, 0.5))
    norm = ops.turbo_operations().RMSNorm(160, eps=1e-6)
    norm.weight = torch.nn.Parameter(torch.ones(160), requires_grad=False)
    x = trials.pattern(5, 160, device=CPU, dtype=HALF)
    exact = torch.nn.functional.rms_norm(x.float(), (160,), torch.ones(160), 1e-6).half()
    assert torch.equal(norm.forward_comfy_cast_weights(x), exact)
    weight = layout.packed_int8(*int8.quantise(torch.randn(64, 256)), HALF)
    assert not layout.multiplies_packed(weight, torch.ones(3, 256, dtype=HALF))


def test_sparse_attention_is_left_out_where_it_cannot_pay(trials, kernels, monkeypatch, tmp_path):
    """Without its kernels it gathers more than it saves: 40 s an evaluation where dense attention takes 23."""
    from comfy_execution.utils import CurrentNodeContext
    from steadydancer.loaders import build
    from steadydancer.nodes import turbo_sampling
    from support import tiny

    said, node = [], turbo_sampling.SteadyDancerSparseAttention
    monkeypatch.setattr(turbo_sampling, "say", lambda node_id, text: said.append((node_id, text)))
    model = build.load_one(str(tiny.write_steadydancer(tmp_path / "dancer.safetensors")))
    taken = lambda given: "optimized_attention_override" in given.model_options["transformer_options"]  # noqa: E731
    on_cpu = node.execute(model, 0.5).args[0]
    assert taken(on_cpu), "on a CPU it gains"
    model.load_device = torch.device("cuda", 0)
    monkeypatch.setattr(model.model, "get_dtype_inference", lambda: HALF)
    for works in (True, False):
        trials.found.clear()
        if not works:
            breaks(monkeypatch, *kernels["attention"][2:], ImportError("No module named 'triton'"))
        else:
            monkeypatch.setitem(trials.found, (kernels["attention"][0], model.load_device, HALF), True)
        with CurrentNodeContext("prompt", "7"):
            found = node.execute(model, 0.5).args[0]
        assert taken(found) is works
    assert found is model
    assert [node_id for node_id, _ in said] == ["7"] and said[0][1].startswith("Sparse attention is left out")
