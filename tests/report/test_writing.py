from __future__ import annotations

import os
import stat
import subprocess
import sys

import pytest

from featx.errors import FeatxError
from featx.report import write_report


def test_writes_both_into_the_run_folder(run_folder):
    before = {path.name for path in run_folder.iterdir()}
    assert write_report(run_folder) == run_folder / "report.html"
    assert {path.name for path in run_folder.iterdir()} - before == {"report.html", "report.md"}
    assert "0.941" in (run_folder / "report.html").read_text(encoding="utf-8")
    assert "0.941 [0.892, 0.969]" in (run_folder / "report.md").read_text(encoding="utf-8")


def test_writes_the_same_again(run_folder):
    first = write_report(run_folder).read_bytes()
    assert write_report(str(run_folder)).read_bytes() == first


def test_output_may_be_a_folder_or_a_file(run_folder, tmp_path):
    assert write_report(run_folder, tmp_path / "new") == tmp_path / "new" / "report.html"
    assert write_report([run_folder], tmp_path / "x" / "ants.html") == tmp_path / "x" / "ants.html"
    assert (tmp_path / "x" / "ants.md").read_text(encoding="utf-8").startswith("# hymenoptera")


def test_several_runs_make_one_report(run_folder, evil_folder, tmp_path):
    html = write_report([run_folder, evil_folder], tmp_path / "both")
    assert "2 runs compared" in html.read_text(encoding="utf-8")
    assert "# 2 runs compared" in html.with_suffix(".md").read_text(encoding="utf-8")


def test_several_runs_need_an_output(run_folder, evil_folder):
    with pytest.raises(FeatxError, match="2 runs were given without an output; say where the report goes"):
        write_report([run_folder, evil_folder])


def test_no_runs():
    with pytest.raises(FeatxError, match="No run was given"):
        write_report([])


def test_a_failed_write_leaves_the_old_report_and_no_rest(run_folder, monkeypatch):
    write_report(run_folder)
    old = (run_folder / "report.md").read_text(encoding="utf-8")
    names = sorted(os.listdir(run_folder))

    def full(*arguments, **more):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    monkeypatch.setattr("os.replace", full)
    with pytest.raises(FeatxError, match=r"report.md.*No space left on device"):
        write_report(run_folder)
    assert (run_folder / "report.md").read_text(encoding="utf-8") == old
    assert sorted(os.listdir(run_folder)) == names


def test_output_below_a_file_is_an_error(run_folder):
    with pytest.raises(FeatxError, match="Not a directory; check the path"):
        write_report(run_folder, run_folder / "results.json" / "deeper")


def test_files_have_the_usual_permissions(run_folder):
    mode = stat.S_IMODE(write_report(run_folder).stat().st_mode)
    reference = run_folder / "reference"
    reference.touch()
    assert mode == stat.S_IMODE(reference.stat().st_mode)


def test_needs_neither_torch_nor_a_store(run_folder):
    code = (
        "import sys; from featx.report import write_report; write_report(sys.argv[1]);"
        "print(sorted({'torch', 'torchvision', 'h5py', 'matplotlib.pyplot'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, run_folder], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[]\n"


def test_progress_needs_no_heavy_library():
    code = (
        "import sys; import featx.report.terminal;"
        "print(sorted({'matplotlib', 'jinja2', 'scipy', 'sklearn', 'numpy.random'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "matplotlib" not in done.stdout
    assert "jinja2" not in done.stdout
    assert "scipy" not in done.stdout
