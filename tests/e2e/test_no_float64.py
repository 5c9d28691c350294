"""Devices without float64: the default sampler, TurboDiffusion's and the pose crops compute there what they do on the CPU."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.no_float64 import DeviceWithoutFloat64, Elsewhere


def test_the_pretended_device_refuses_float64():
    with DeviceWithoutFloat64() as device:
        x = device.put(torch.ones(2))
        with pytest.raises(TypeError):
            x.double()
        with pytest.raises(TypeError):
            x * torch.tensor(2.0, dtype=torch.float64)
        assert (x.cpu() * 2).tolist() == [2, 2] and (x * 2.0).device == device.device


class Network:
    """Stands for the model: pulls towards a fixed clean video."""

    def __init__(self, clean, latent):
        self.clean, self.latent_image = clean, latent

    def __call__(self, x, sigma, **kwargs):
        return 0.9 * self.clean + 0.1 * x


def test_flow_unipc(comfyui):
    from steadydancer.dancer.sampling import sample_flow_unipc, steadydancer_sigmas

    random = torch.Generator().manual_seed(0)
    x, clean = (torch.randn(1, 16, 2, 4, 4, generator=random) for _ in range(2))
    sigmas, latent = steadydancer_sigmas(6, 5.0), torch.zeros_like(x)
    expected = sample_flow_unipc(Network(clean, latent), x, sigmas, disable=True)
    with DeviceWithoutFloat64() as device:
        put = device.put
        found = sample_flow_unipc(Network(put(clean), put(latent)), put(x), put(sigmas), disable=True)
        assert isinstance(found, Elsewhere)
    assert torch.equal(found.numbers, expected)


@pytest.mark.parametrize("ode", [False, True])
def test_rcm(comfyui, monkeypatch, ode):
    import comfy.model_management
    from steadydancer.turbo.sampler import RCMSampler
    from steadydancer.turbo.schedule import rcm_times

    monkeypatch.setattr(comfy.model_management, "supports_fp64", lambda device=None: device.type == "cpu")
    clean = torch.randn(1, 16, 2, 4, 4, generator=torch.Generator().manual_seed(0))
    times = rcm_times(4, 80.0)

    def run(put):
        sampler = RCMSampler(times, torch.Generator().manual_seed(1), ode)
        sampler.steps = range(4)

        def model(x, sigma, **kwargs):
            return 0.9 * put(clean) + 0.1 * x

        zeros, options = put(torch.zeros_like(clean)), {"model_options": {}}
        wrap = type(
            "Wrap", (), {"__call__": staticmethod(model), "inner_model": SimpleNamespace(model_sampling=None)}
        )()
        return sampler.sample(wrap, put(torch.tensor(times)), options, None, zeros, zeros, disable_pbar=True)

    expected = run(lambda tensor: tensor)
    with DeviceWithoutFloat64() as device:
        found = run(device.put)
    assert expected.dtype == torch.float64 and found.numbers.dtype == torch.float32
    torch.testing.assert_close(found.numbers.double(), expected, rtol=1e-5, atol=1e-5)


def test_pose_crops():
    from steadydancer.pose.crops import decode

    answer = [torch.rand(2, 133, size, generator=torch.Generator().manual_seed(size)) for size in (576, 768)]
    where = np.array([[400.0, 500, 288, 384], [10, 20, 30, 40]])
    expected = decode(tuple(answer), where)
    with DeviceWithoutFloat64() as device:
        found = decode(tuple(map(device.put, answer)), where)
    for ours, wanted in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, wanted)
