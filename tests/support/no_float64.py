"""A pretended device without float64, as MPS, XPU and DirectML are: real numbers on the CPU under another device's name.

Torch asks for a driver when it hears `mps` or `xpu`, and for none when it hears `meta`.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map


class Elsewhere(torch.Tensor):
    """A tensor of the pretended device; `numbers` are on the CPU."""

    @staticmethod
    def __new__(cls, numbers: torch.Tensor, device: torch.device):
        out = torch.Tensor._make_wrapper_subclass(
            cls, numbers.shape, strides=numbers.stride(), dtype=numbers.dtype, device=device
        )
        out.numbers = numbers
        return out

    def __repr__(self):
        return f"Elsewhere({self.numbers})"

    @classmethod
    def __torch_dispatch__(cls, op, kinds, args=(), kwargs=None):
        raise AssertionError("used outside the pretended device's `with`")


class DeviceWithoutFloat64(TorchDispatchMode):
    """`with DeviceWithoutFloat64() as device:`; `device.put(tensor)` is `tensor.to(device)`."""

    device = torch.device("meta")

    def put(self, tensor: torch.Tensor) -> torch.Tensor:
        return Elsewhere(tensor, self.device)

    def __torch_dispatch__(self, op, kinds, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        here = []

        def unwrap(value):
            if isinstance(value, Elsewhere):
                here.append(value)
                return value.numbers
            return value

        arguments, named = tree_map(unwrap, args), tree_map(unwrap, kwargs)
        asked = named.get("device")
        if asked is not None:
            named["device"] = torch.device("cpu")
        elsewhere = torch.device(asked).type == self.device.type if asked is not None else bool(here)
        doubles = [value for value in args if isinstance(value, torch.Tensor) and value.dtype == torch.float64]
        out = op(*arguments, **named)
        if not elsewhere:
            return out

        def wrap(value):
            if not isinstance(value, torch.Tensor):
                return value
            if value.dtype == torch.float64 or doubles:
                raise TypeError(f"{self.device.type} has no float64: {op}")
            return value if isinstance(value, Elsewhere) else Elsewhere(value, self.device)

        return tree_map(wrap, out)
