"""The architecture of ``featx-tiny``: a small residual network for 64×64 RGB images.

The network is a narrow ResNet (He et al., 2016, https://arxiv.org/abs/1512.03385) with basic blocks: a
stem at half the resolution, then four blocks down to a 4×4 map of 256 channels. It holds about a million
parameters and needs torch only, so that the embedded weights can be read without torchvision.
"""

from __future__ import annotations

from torch import Tensor, nn

__all__ = ["FEATURES", "INPUT_SIZE", "TinyNet", "tiny_net"]

INPUT_SIZE = 64
"""Height and width of the images that the network was trained on, in pixels."""

FEATURES = 256
"""Channels of the last feature map, thus the width of the pooled embedding."""


class BasicBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut.

    Parameters
    ----------
    inputs, outputs : int
        Channels before and after the block.
    stride : int
        Stride of the first convolution and of the shortcut; a shortcut that changes nothing is the identity.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        """Map (n, inputs, h, w) to (n, outputs, h / stride, w / stride)."""
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu(out + self.shortcut(x))  # type: ignore[no-any-return]


class TinyNet(nn.Module):
    """A residual network of about a million parameters.

    Parameters
    ----------
    num_classes : int
        Outputs of the last layer, ``classifier``.

    Examples
    --------
    >>> import torch
    >>> network = TinyNet(num_classes=7).eval()
    >>> network(torch.zeros(2, 3, 64, 64)).shape
    torch.Size([2, 7])
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 24, 3, 2, padding=1, bias=False), nn.BatchNorm2d(24), nn.ReLU(inplace=True)
        )
        self.layer1 = BasicBlock(24, 48, 2)
        self.layer2 = BasicBlock(48, 96, 2)
        self.layer3 = BasicBlock(96, 96, 1)
        self.layer4 = BasicBlock(96, FEATURES, 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten(1)
        self.classifier = nn.Linear(FEATURES, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Map normalised images (n, 3, h, w) to scores (n, num_classes)."""
        x = self.stem(x)
        x = self.layer1(x)
        x = self.layer2(x)
        x = self.layer3(x)
        x = self.layer4(x)
        x = self.flatten(self.avgpool(x))
        return self.classifier(x)  # type: ignore[no-any-return]


def tiny_net(num_classes: int) -> TinyNet:
    """Build :class:`TinyNet` with random weights from torch's global generator.

    Parameters
    ----------
    num_classes : int
        Outputs of the classifier.

    Returns
    -------
    TinyNet
        The network in training mode; seed torch before the call to have the same weights again.

    Examples
    --------
    >>> sum(p.numel() for p in tiny_net(500).parameters()) < 1_500_000
    True
    """
    return TinyNet(num_classes)
