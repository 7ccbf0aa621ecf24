import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.models.feature_extraction import get_graph_node_names

from featx.backbones.graph import find_node, trace


def names_of(model):
    return get_graph_node_names(model, suppress_diff_warning=True)[1]


@pytest.mark.parametrize("name", ["resnet18", "swin_t", "shufflenet_v2_x0_5"])
def test_names_are_those_of_torchvision(name):
    model = models.get_model(name).eval()
    assert list(trace(model, 224).names) == names_of(model)


def test_a_module_means_the_last_node_inside():
    graph = trace(models.resnet18(), 224)
    assert find_node(graph, "layer2") == "layer2.1.relu_1"
    assert find_node(graph, "layer2.0.conv1") == "layer2.0.conv1"
    assert find_node(graph, "layer") is None


@pytest.mark.parametrize(
    ("name", "node"),
    [
        ("resnet18", "avgpool"),
        ("vgg16", "classifier.4"),
        ("mobilenet_v2", "adaptive_avg_pool2d"),
        ("squeezenet1_1", "features.12.cat"),
        ("vit_b_32", "encoder.ln"),
        ("convnext_tiny", "classifier.0"),
    ],
)
def test_the_penultimate_is_found(name, node):
    with torch.device("meta"):
        assert trace(models.get_model(name), 224).penultimate() == node


class Counting(nn.Module):
    """Counts its forward passes and asserts about its input, as the blocks of ViT do."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.calls = []

    def forward(self, x):
        torch._assert(x.dim() == 2, "two axes")
        return self.linear(x)


def test_nothing_after_the_cut_is_kept():
    model = nn.Sequential(*[Counting() for _ in range(4)]).eval()
    graph = trace(model, 4)
    assert graph.used(model, ["1.linear"]) == {
        f"{i}.linear.{kind}" for i in (0, 1) for kind in ("weight", "bias")
    }
    cut = graph.cut(model, ["1.linear"])
    assert {name for name, _ in cut.named_modules() if "linear" in name} == {"0.linear", "1.linear"}
    assert "2" not in dict(cut.named_children())
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(cut(x)["1.linear"], model[1](model[0](x)))


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(4, 2)

    def forward(self, x):
        return self.head(self.relu(self.conv(x)).mean((2, 3)))


class Branching(InPlace):
    """Cannot be traced: it looks at the values."""

    def forward(self, x):
        x = self.relu(self.conv(x))
        if x.shape[0] == 0 or bool(x.device.type == "cpu" and x.sum() < -1):
            return x
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("kind", [InPlace, Branching])
def test_in_place_operations_after_a_node_do_not_change_it(kind):
    torch.manual_seed(0)
    model = kind().eval()
    graph = trace(model, 8)
    assert type(graph).__name__ == {"InPlace": "_TracedGraph", "Branching": "_HookedGraph"}[kind.__name__]
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        values = graph.cut(model, ["conv", "head"])(x)
        conv = model.conv(x)
    assert conv.min() < 0
    assert torch.equal(values["conv"], conv)
    assert torch.equal(values["head"], model(x))


def test_a_network_that_cannot_be_traced_is_cut_by_hooks():
    model = Branching().eval()
    graph = trace(model, 8)
    assert list(graph.names) == ["conv", "relu", "head"]
    calls = []
    model.head.register_forward_hook(lambda *args: calls.append(1))
    cut = graph.cut(model, ["relu"])
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(cut(x)["relu"], model.conv(x).relu())
    assert calls == []
    assert graph.used(model, ["relu"]) == {"conv.weight", "conv.bias"}
