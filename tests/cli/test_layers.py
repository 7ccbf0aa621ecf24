"""``featx layers``: what was measured, as a table and as JSON."""

import json
import sys

import pytest
from click.testing import CliRunner
from torchvision.models import get_model
from torchvision.models.feature_extraction import get_graph_node_names

import featx
from featx.cli import cli

NETWORK = """
from torch import nn

def network():
    return nn.Sequential(
        nn.Conv2d(3, 6, 8, stride=8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4704)
    )
"""


def run(*arguments):
    result = CliRunner().invoke(cli, ["layers", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def custom(tmp_path, monkeypatch):
    (tmp_path / "network_with_layers.py").write_text(NETWORK)
    monkeypatch.syspath_prepend(tmp_path)
    yield "custom:network_with_layers:network"
    sys.modules.pop("network_with_layers", None)


def test_a_network_of_ones_own_is_measured(custom):
    # 28 × 28 × 6 × 3 × 64 multiplications of the convolution, and 6 × 4704 of the classifier.
    assert [line.split() for line in run(custom).splitlines()] == [
        ["node", "shape", "width", "compute"],
        ["input", "3×224×224", "3", "0.0%"],
        ["0", "6×28×28", "6", "97.0%"],
        ["1", "6×28×28", "6", "97.0%"],
        ["*", "2", "6×1×1", "6", "97.0%"],
        ["3", "6", "6", "97.0%"],
        ["4", "4704", "4704", "100.0%"],
    ]


@pytest.mark.parametrize("name", ["resnet50", "vit_b_16"])
def test_a_table_fits_a_terminal(name):
    lines = run(name).splitlines()
    assert max(map(len, lines)) <= 80
    assert len({len(line) for line in lines}) == 1  # columns are aligned


def test_json_holds_all_that_is_known():
    data = json.loads(run("resnet18", "--json"))
    assert data["backbone"] == "resnet18"
    nodes = {node["name"]: node for node in data["nodes"]}
    expected = {node.name: node for node in featx.list_nodes("resnet18")}
    assert list(nodes) == list(expected) == get_graph_node_names(get_model("resnet18").eval())[1]
    for name, node in nodes.items():
        for field in ("shape", "width", "share", "poolings", "is_penultimate"):
            known = getattr(expected[name], field)
            assert node[field] == (list(known) if isinstance(known, tuple) else known)
    assert nodes["layer2.0.downsample.0"]["shape"] == [128, 28, 28]
    assert [name for name, node in nodes.items() if node["is_penultimate"]] == ["avgpool"]
    assert nodes["avgpool"]["poolings"] == ["avg", "max", "gem", "flatten"]
