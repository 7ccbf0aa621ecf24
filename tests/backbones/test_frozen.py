import pytest
import torch
from torch import nn
from torchvision.ops import Conv2dNormActivation

from featx.backbones.catalog import find_backbone
from featx.backbones.frozen import Pooled, fold_batchnorm
from featx.backbones.network import cut_network
from featx.backbones.pooling import Axes
from featx.records import LayerSpec, Preprocess

SMALL = Preprocess("squash", 64, 64, "bilinear", (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))


def trained(module, seed=1):
    """Give BatchNorm the figures that training leaves."""
    generator = torch.Generator().manual_seed(seed)
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.copy_(torch.rand(layer.num_features, generator=generator) - 0.5)
            layer.running_var.copy_(torch.rand(layer.num_features, generator=generator) + 0.5)
    return module.eval()


def norms(module):
    return [layer for layer in module.modules() if isinstance(layer, nn.BatchNorm2d)]


def rows(module, node):
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        return module(images)[node]


class TestFolding:
    def cut(self, node, name="resnet18"):
        part = cut_network(find_backbone(name), "none", [LayerSpec(node)], seed=0, preprocess=SMALL)
        return trained(part.module), part.cuts[0].node

    def test_gives_the_same_rows_without_batchnorm(self):
        module, node = self.cut("layer2")
        before = rows(module, node)
        assert norms(module)
        folded = fold_batchnorm(module)
        assert not norms(folded)
        after = rows(folded, node)
        assert ((before - after).norm() / before.norm()).item() < 1e-5

    def test_a_convolution_that_was_asked_for_stays_itself(self):
        module, node = self.cut("layer1.0.conv1")
        before = rows(module, node)
        torch.testing.assert_close(rows(fold_batchnorm(module), node), before)

    def test_one_convolution_with_two_batchnorms_stays_itself(self):
        class Shared(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv, self.one, self.two = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4)
                nn.init.constant_(self.two.weight, 3.0)

            def forward(self, images):
                return {"x": self.one(self.conv(images)) + self.two(self.conv(images + 1))}

        module = torch.fx.symbolic_trace(Shared().eval())
        before = rows(module, "x")
        torch.testing.assert_close(rows(fold_batchnorm(module), "x"), before)

    def test_one_convolution_called_twice_before_one_batchnorm_stays_itself(self):
        class Twice(nn.Module):
            def __init__(self):
                super().__init__()
                self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

            def forward(self, images):
                return {"x": self.norm(self.conv(self.conv(images)))}

        module = trained(torch.fx.symbolic_trace(Twice()))
        before = rows(module, "x")
        torch.testing.assert_close(rows(fold_batchnorm(module), "x"), before)

    @pytest.mark.parametrize("nested", [False, True])
    def test_a_leaf_of_the_graph_is_folded_within(self, nested):
        torch.manual_seed(0)
        block = Conv2dNormActivation(3, 4, 3, activation_layer=nn.ReLU)
        if nested:
            block = nn.Sequential(block, nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.Identity()))

        class Outer(nn.Module):
            def __init__(self):
                super().__init__()
                self.block = block

            def forward(self, images):
                return {"x": self.block(images)}

        class Leaves(torch.fx.Tracer):
            def is_leaf_module(self, module, name):
                return name == "block"

        outer = trained(Outer())
        module = torch.fx.GraphModule(outer, Leaves().trace(outer))
        before = rows(module, "x")
        assert len(norms(module)) == 1 + nested
        folded = fold_batchnorm(module)
        assert not norms(folded)
        torch.testing.assert_close(rows(folded, "x"), before, rtol=1e-5, atol=1e-5)
        assert norms(block)  # what was given in is as it was

    def test_a_batchnorm_without_statistics_stays_itself(self):
        block = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False))
        module = torch.fx.symbolic_trace(nn.Sequential(block)).eval()
        assert len(norms(fold_batchnorm(module))) == 1

    def test_what_was_not_traced_is_left_alone(self):
        module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).eval()
        assert fold_batchnorm(module) is module
        assert norms(module)


class Passing(nn.Module):
    """Gives its input as three nodes, one shaped as tokens, and keeps it to be looked at."""

    def forward(self, images):
        self.seen = images
        return {"map": images, "again": 2 * images}


class TestPooled:
    images = torch.randint(
        0, 256, (3, 5, 4, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0)
    )

    @pytest.mark.parametrize(
        ("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16)]
    )
    def test_normalises_and_pools(self, precision, dtype):
        network = Passing()
        cuts = [("again", Axes((3, 5, 4), 0), "avg"), ("map", Axes((3, 5, 4), 0), "max")]
        twice, largest = Pooled(network, cuts, SMALL, precision)(self.images)
        channels = torch.tensor([0.5, 0.4, 0.3]), torch.tensor([0.2, 0.3, 0.4])
        pixels = (self.images.double() / 255 - channels[0]) / channels[1]
        assert network.seen.dtype == dtype
        assert network.seen.shape == (3, 3, 5, 4)
        assert network.seen.is_contiguous(memory_format=torch.channels_last)
        tolerance = 1e-5 if precision == "fp32" else 2e-2
        for rows_, expected in ((twice, 2 * pixels.mean((1, 2))), (largest, pixels.amax((1, 2)))):
            assert rows_.dtype == torch.float32
            torch.testing.assert_close(rows_.double(), expected.double(), rtol=tolerance, atol=tolerance)

    def test_leaves_the_images_as_they_are(self):
        before = self.images.clone()
        Pooled(Passing(), [("map", Axes((3, 5, 4), 0), "avg")], SMALL, "fp32")(self.images)
        assert torch.equal(before, self.images)
