import ast
import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import featx

ROOT = Path(__file__).parents[1]


def test_every_public_name_can_be_imported_and_has_a_docstring():
    assert sorted(featx._HOMES) == featx.__all__
    for name in featx.__all__:
        value = getattr(featx, name)
        assert value.__doc__
        assert value.__name__ == name
        assert value.__module__.startswith("featx.")


def test_public_functions_document_every_parameter():
    import inspect

    for name in featx.__all__:
        value = getattr(featx, name)
        if inspect.isclass(value) and issubclass(value, Exception):
            continue
        documented = (value.__doc__ or "") + (value.__init__.__doc__ or "" if inspect.isclass(value) else "")
        for parameter in inspect.signature(value).parameters:
            if parameter not in ("self", "args", "kwargs"):
                assert parameter in documented, f"{name}: {parameter}"


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="extrct"):
        featx.extrct  # noqa: B018


@pytest.mark.parametrize("code", ["import featx", "import featx.cli", "import featx.backbones.catalog"])
def test_importing_loads_neither_torch_nor_scikit_learn(code):
    heavy = "[name for name in ('torch', 'sklearn', 'h5py', 'matplotlib', 'skops') if name in sys.modules]"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; import sys; print({heavy})"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


def test_the_tests_mirror_the_package():
    for path in (ROOT / "tests").rglob("test_*.py"):
        folder = path.parent.relative_to(ROOT / "tests")
        assert (ROOT / "featx" / folder).is_dir()


def test_every_import_is_a_declared_dependency():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    declared = {name.split(">")[0].split("[")[0].lower() for name in project["dependencies"]}
    names = {"sklearn": "scikit-learn", "PIL": "pillow"}
    optional = {"_typeshed", "cleanlab", "timm", "pyarrow", "fcntl", "msvcrt", "resource"}
    for path in (ROOT / "featx").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [node.module]
            for module in modules:
                top = module.split(".")[0]
                if top in sys.stdlib_module_names or top == "featx" or top in optional:
                    continue
                assert names.get(top, top).lower() in declared, f"{path}: {module}"


def test_modules_stay_readable():
    for path in (ROOT / "featx").rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 450, path
        importlib.import_module(
            ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        )
