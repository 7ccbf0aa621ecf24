import threading

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models
from torchvision.models.feature_extraction import get_graph_node_names

from featx.backbones.graph import find_node
from featx.backbones.tracing import trace
from featx.errors import BackboneError


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
    """Cannot be traced: it looks at the shape."""

    def forward(self, x):
        x = self.relu(self.conv(x))
        if x.shape[0] == 0:
            return x
        return self.head(x.mean((2, 3)))


class Looking(InPlace):
    """Cannot be traced, nor run without numbers: it looks at the values."""

    def forward(self, x):
        x = self.relu(self.conv(x))
        if x.sum() > 1e6:
            return self.head(-x.mean((2, 3)))
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("kind", [InPlace, Branching, Looking])
def test_in_place_operations_after_a_node_do_not_change_it(kind):
    torch.manual_seed(0)
    model = kind().eval()
    graph = trace(model, 8)
    assert type(graph).__name__ == ("_TracedGraph" if kind is InPlace else "HookedGraph")
    assert graph.device.type == ("cpu" if kind is Looking else "meta")
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        values = graph.cut(model, ["conv", "head"])(x)
        conv = model.conv(x)
    assert conv.min() < 0
    assert torch.equal(values["conv"], conv)
    assert torch.equal(values["head"], model(x))


@pytest.mark.parametrize("kind", [Branching, Looking])
def test_a_network_that_cannot_be_traced_is_cut_by_hooks(kind):
    model = kind().eval()
    graph = trace(model, 8)
    assert list(graph.names) == ["conv", "relu", "head"]
    assert graph.penultimate() == "relu"
    calls = []
    model.head.register_forward_hook(lambda *args: calls.append(1))
    cut = graph.cut(model, ["relu"])
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(cut(x)["relu"], model.conv(x).relu())
    assert calls == []
    assert graph.used(model, ["relu"]) == {"conv.weight", "conv.bias"}


class ByFunctions(nn.Module):
    """Cannot be traced, and its layers are functions where ResNet's are."""

    def __init__(self, after):
        super().__init__()
        self.conv, self.avgpool = nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1)
        self.after, self.head = after, nn.Linear(4, 2)

    def forward(self, x):
        x = self.avgpool(self.conv(x).relu()) if x.shape[0] else x
        return self.head(self.after(torch.flatten(x, 1)))


@pytest.mark.parametrize(
    ("after", "node"),
    [(torch.relu, "avgpool"), (nn.Dropout(0.5), "after"), (nn.Hardswish(), "after")],
)
def test_the_penultimate_is_never_the_classifier(after, node):
    # Dropout stays, since no module made what it reads.
    graph = trace(ByFunctions(after), 8)
    assert type(graph).__name__ == "HookedGraph"
    assert graph.penultimate() == node


def test_a_network_of_one_layer_gives_its_output():
    class Single(Branching):
        def forward(self, x):
            return self.conv(x) if x.shape[0] else x

    assert trace(Single(), 8).penultimate() == "conv"


def test_a_network_of_another_size_that_cannot_be_traced_is_refused():
    model = Looking()
    model.conv = nn.Conv2d(3, 4, 16)
    with pytest.raises(RuntimeError, match="size"):
        trace(model, 8)


def test_a_module_that_an_image_goes_round_is_no_silent_gap():
    class Skipping(Looking):
        def forward(self, x):
            x = self.conv(x)
            if x.abs().max() < 100:
                x = self.relu(x)
            return self.head(x.mean((2, 3)))

    model = Skipping().eval()
    cut = trace(model, 8).cut(model, ["relu"])
    with torch.no_grad():
        assert set(cut(torch.zeros(1, 3, 8, 8))) == {"relu"}
        with pytest.raises(BackboneError, match="did not run its module 'relu' for these images"):
            cut(torch.full((1, 3, 8, 8), 1e6))


class Steps(nn.Module):
    """Five convolutions; notes which of them ran."""

    def __init__(self):
        super().__init__()
        self.steps = nn.ModuleList(nn.Conv2d(3, 3, 3, padding=1) for _ in range(5))
        self.ran = []
        for number, step in enumerate(self.steps):
            step.register_forward_pre_hook(lambda *_, number=number: self.ran.append(number))

    def forward(self, x):
        for step in self.steps:
            x = step(x)
        return x


class BranchingSteps(Steps):
    def forward(self, x):
        return super().forward(x) if x.shape[0] else x


class LookingSteps(Steps):
    def forward(self, x):
        return super().forward(x) if x.sum() < 1e6 else x


@pytest.mark.parametrize("kind", [Steps, BranchingSteps, LookingSteps])
@pytest.mark.parametrize("last", range(5))
def test_what_follows_the_last_node_never_runs(kind, last):
    model = kind().eval()
    graph = trace(model, 8)
    assert type(graph).__name__ == ("_TracedGraph" if kind is Steps else "HookedGraph")
    # The order in which nodes are asked for does not matter, and earlier ones cost nothing more.
    cut = graph.cut(model, [f"steps.{last}", "steps.0"][: last + 1])
    model.ran.clear()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        cut(torch.ones(2, 3, 8, 8))
    assert model.ran == list(range(last + 1))
    assert counter.get_total_flops() == (last + 1) * 2 * 2 * 3 * 3 * 9 * 64  # two a multiplication


class Watched(nn.Module):
    """Calls ``meanwhile`` while it is traced."""

    def __init__(self, meanwhile):
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)
        self.meanwhile = meanwhile

    def forward(self, images):
        self.meanwhile()
        return self.conv(images)


def test_while_a_network_is_read_other_threads_run_theirs():
    other, images, results = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU()).eval(), torch.ones(1, 3, 4, 4), []
    expected = other(images)

    def run():
        worker = threading.Thread(target=lambda: results.append(other(images)))
        worker.start()
        worker.join()

    assert trace(Watched(run), 4).names == ["images", "conv"]
    (found,) = results
    assert torch.equal(found, expected)
    assert torch.equal(other(images), expected)
