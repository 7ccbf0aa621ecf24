import torch
from torch import fx, nn

from featx.backbones.dividing import divide


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.last = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 2)
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, x):
        x = self.first(x).relu()
        return self.last(self.second(x) * self.scale + x)


def test_several_values_are_handed_over():
    network = fx.symbolic_trace(Residual())
    network.get_submodule("first").requires_grad_(requires_grad=False)
    network.scale.requires_grad_(requires_grad=False)
    trunk, top = divide(network)
    x = torch.rand(4, 3)
    assert [value.shape for value in trunk(x)] == [(4, 3)]
    assert top(*trunk(x)).equal(network(x))
    assert {name for name, _ in trunk.named_parameters()} == {"first.weight", "first.bias"}
    assert top.get_submodule("last") is network.get_submodule("last")


def test_an_attribute_that_is_trained_belongs_to_the_top():
    network = fx.symbolic_trace(Residual())
    for name in ("first", "second"):
        network.get_submodule(name).requires_grad_(requires_grad=False)
    trunk, top = divide(network)
    x = torch.rand(4, 3)
    assert len(trunk(x)) == 2
    assert top(*trunk(x)).equal(network(x))
    top(*trunk(x)).sum().backward()
    assert network.scale.grad is not None


def test_nothing_to_divide():
    assert divide(fx.symbolic_trace(Residual())) is None
    assert divide(Residual()) is None
