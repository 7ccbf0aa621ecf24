import re
import shlex
from pathlib import Path

import pytest

from featx.cli import cli

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, flags=re.S | re.M)


def commands():
    lines = "\n".join(blocks("sh")).replace("\\\n", " ").splitlines()
    return sorted({line for line in lines if line.startswith("featx ")})


@pytest.mark.parametrize("line", commands())
def test_every_command_line_is_understood(line):
    name, *arguments = shlex.split(line, comments=True)[1:]
    with cli.commands[name].make_context(name, arguments) as context:
        assert context.params


def test_the_python_of_the_readme_runs(make_photos, monkeypatch):
    root = make_photos(splits={"": 12})
    monkeypatch.chdir(root.parent)
    namespace = {}
    for block in blocks("python"):
        exec(block, namespace)
    assert namespace["X"].shape == (24, 256)
    assert set(namespace["labels"]) == {"ants", "bees"}
    assert namespace["tuned"].best_estimator_.classes_.tolist() == ["ants", "bees"]


def test_ci_finds_the_test_command():
    lines = re.findall(r"^python3 -m venv .*pytest$", TEXT, flags=re.M)
    assert len(lines) == 1
