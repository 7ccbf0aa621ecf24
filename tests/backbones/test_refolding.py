import pytest
import torch
from torch import fx, nn

from featx.backbones.refolding import refold_batchnorm


def network(bias):
    layers = [nn.Conv2d(3, 6, 3, stride=2, padding=1, bias=bias), nn.BatchNorm2d(6), nn.ReLU()]
    layers += [nn.Conv2d(6, 6, 3, groups=3, bias=bias), nn.BatchNorm2d(6), nn.Flatten(), nn.Linear(6 * 9, 2)]
    made = nn.Sequential(*layers).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for norm in (made[1], made[4]):
            for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
    return made


def gradients(module, images):
    module.zero_grad()
    module(images).square().sum().backward()
    return {name: parameter.grad.clone() for name, parameter in module.named_parameters()}


@pytest.mark.parametrize("bias", [False, True])
def test_the_same_numbers_and_gradients(bias):
    torch.manual_seed(0)
    made, images = network(bias), torch.rand(4, 3, 10, 10)
    expected, wanted = made(images), gradients(made, images)
    traced = fx.symbolic_trace(made)
    assert refold_batchnorm(traced) == 2
    torch.testing.assert_close(traced(images), expected)
    found = gradients(traced, images)
    assert found.keys() == wanted.keys()
    for name in wanted:
        torch.testing.assert_close(found[name], wanted[name], msg=name, rtol=1e-4, atol=1e-4)


def test_the_tensors_stay_those_of_the_network():
    made = network(False)
    traced = fx.symbolic_trace(made)
    refold_batchnorm(traced)
    assert list(traced.state_dict()) == list(made.state_dict())
    for name, parameter in traced.named_parameters():
        assert parameter is dict(made.named_parameters())[name]
    traced.double()
    assert made[1].running_mean.dtype == torch.float64


def test_what_is_left_alone():
    made = network(False)
    assert refold_batchnorm(made) == 0  # not traced
    assert refold_batchnorm(fx.symbolic_trace(made), but={id(made[1])}) == 1
    # Training begins between the two.
    made = network(False)
    made[0].requires_grad_(requires_grad=False)
    assert refold_batchnorm(fx.symbolic_trace(made)) == 1
