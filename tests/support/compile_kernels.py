"""Compiles our GPU kernels for the cards that people have, which needs no card, and prints JSON lines.

The package's own functions are called at the sizes of real runs, on tensors without memory; what they would launch is
compiled instead. Run it without TRITON_INTERPRET: Triton decides at import whether its functions are made for a GPU.
"""

import json
import re
import subprocess
import tempfile
from pathlib import Path

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

CARDS = (80, 86, 89, 90, 100, 120)  # A100, RTX 3090, RTX 4090, H100, B200, RTX 5090
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
TYPES = {
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.float32: "*fp32",
    torch.int8: "*i8",
    torch.uint8: "*u8",
    torch.int32: "*i32",
}


class Compiled:
    """In place of a kernel: compiles what is launched, for every card."""

    def __init__(self, kernel):
        self.kernel = kernel

    def __getitem__(self, grid):
        return lambda *values, **named: self.launch(dict(zip(self.kernel.arg_names, values)) | named)

    def launch(self, values: dict) -> None:
        arguments = {name: values.pop(name) for name in self.kernel.arg_names}
        constants, signature, whole = {}, {}, {}
        for at, (parameter, value) in enumerate(zip(self.kernel.params, arguments.values())):
            is_tensor = isinstance(value, torch.Tensor)
            if parameter.is_constexpr or not is_tensor and value == 1:
                signature[parameter.name], constants[(at,)] = "constexpr", value
            elif isinstance(value, float):
                signature[parameter.name] = "fp32"
            else:
                integer = "i32" if is_tensor or abs(value) < 1 << 31 else "i64"
                signature[parameter.name] = TYPES[value.dtype] if is_tensor else integer
                if is_tensor or value % 16 == 0:
                    whole[(at,)] = [["tt.divisibility", 16]]
        for card in CARDS:
            source = ASTSource(self.kernel, signature, constants, whole)
            done = triton.compile(source, target=GPUTarget("cuda", card, 32), options=values)
            registers, spilled = machine_code(done.asm["cubin"])
            ptx = done.asm["ptx"]
            facts = {"kernel": self.kernel.__name__, "card": card, "shared": done.metadata.shared}
            facts |= {"registers": registers, "spilled": spilled, "fused": ptx.count("fma.rn.f32")}
            products = ("tcgen05.mma", "wgmma.mma_async", "mma.sync")
            print(json.dumps(facts | {"products": next((p for p in products if p in ptx), "")}), flush=True)


def machine_code(cubin: bytes) -> tuple[int, int]:
    """Registers of a thread, and how often its longest loop reaches for memory because registers did not suffice."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()

        def dump(what):
            return subprocess.run([TOOLS / "cuobjdump", what, file.name], capture_output=True, text=True).stdout

        registers = int(re.search(r"REG:(\d+)", dump("-res-usage"))[1])
        lines = re.findall(r"^\s+/\*([0-9a-f]{4,6})\*/\s+(.*)", dump("-sass"), re.MULTILINE)
    code = [(int(address, 16), text) for address, text in lines]
    spans = [(int(m[1], 16), at) for at, text in code if (m := re.search(r"BRA.*? 0x([0-9a-f]+)", text))]
    loops = [span for span in spans if span[0] < span[1]]
    start, end = max(loops, key=lambda span: span[1] - span[0], default=(0, -1))
    return registers, sum("LDL" in text or "STL" in text for at, text in code if start <= at <= end)


def main() -> None:
    from steadydancer.quant import triton_int8, triton_kernels
    from steadydancer.quant.blocks import BLOCKS
    from steadydancer.turbo import triton_norms, triton_sla

    for module in (triton_int8, triton_kernels, triton_norms, triton_sla):
        for name in [name for name in vars(module) if name.endswith("_kernel")]:
            setattr(module, name, Compiled(getattr(module, name)))

    def empty(*shape, dtype=torch.bfloat16):
        return torch.empty(shape, dtype=dtype, device="meta")

    q, k, v = (empty(1, 75_600, 40, 128) for _ in range(3))  # 14B, 720p, 81 frames
    triton_sla.sla(q, k, v, (empty(128, 128), empty(128)), 0.1)
    triton_sla.sla(*(empty(1, 52_992, 40, 128) for _ in range(3)), None, 0.5, pinned=73)  # SteadyDancer, 576p
    weight, scale = empty(13_824, 5120, dtype=torch.int8), empty(108, 40, dtype=torch.float32)
    triton_int8.linear(empty(1, 75_600, 5120), weight, scale, empty(13_824))
    for number in triton_kernels.KERNELS:
        packed = empty(13_824, 5120 // BLOCKS[number].weights * BLOCKS[number].bytes, dtype=torch.uint8)
        triton_kernels.dequantise(packed, number, empty(13_824, 5120, dtype=torch.float16))
    odd = [empty(1, 75_601, 12, 128, dtype=torch.float16) for _ in range(3)]  # a length that 16 does not divide
    triton_sla.sla(*odd, (empty(128, 128, dtype=torch.float16), empty(128, dtype=torch.float16)), 0.1)
    ones = empty(5120, dtype=torch.float32)
    for bias in (None, ones):
        triton_norms.norm(empty(1, 75_600, 5120), ones, bias, 1e-6)


if __name__ == "__main__":
    import support  # noqa: F401  (loads the package)

    main()
