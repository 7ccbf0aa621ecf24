import numpy as np
import pytest
from pictures import photo, png

import featx
from featx import canaries
from featx.errors import DriftError
from featx.images.sources import open_source


def extract(source, store, **options):
    return featx.extract(source, store, **{"backbone": "pixels", "store_dtype": "float16", **options})


@pytest.fixture
def drifted(monkeypatch):
    """Let the network give other numbers, as another build of torch would."""
    from featx.backbones.network import Network

    original = Network.embed

    def set_drift(factor):
        monkeypatch.setattr(
            Network, "embed", lambda self, pixels: {k: v * factor for k, v in original(self, pixels).items()}
        )

    return set_drift


@pytest.fixture
def grown(make_photos, tmp_path):
    """A store, and its folder with one more image."""
    root, path = make_photos(splits={"train": 6}), tmp_path / "x.h5"
    extract(root, path)
    (root / "train/ants/new.png").write_bytes(png(photo("ants", 77)))
    return root, path


def test_rows_that_are_computed_differently_are_not_mixed(grown, drifted):
    root, path = grown
    before = path.read_bytes()
    drifted(1.01)
    expected = r"x\.h5 .*4 of its images.*differ by up to 0\.009.*fp32 may differ by 0\.001.*--overwrite"
    with pytest.raises(DriftError, match=expected) as caught:
        extract(root, path)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before
    assert not path.with_name("x.h5.parts").exists()
    assert len(extract(root, path, overwrite=True)) == 13


def test_what_rounding_explains_is_no_drift(grown, drifted):
    drifted(1 + 1e-5)
    assert extract(*grown).summary.computed == 1


def test_another_version_is_named(grown, drifted, monkeypatch):
    drifted(2.0)
    real = canaries.environment()
    other = {**real, "versions": {**real["versions"], "torch": "9.9"}}
    monkeypatch.setattr(canaries, "environment", lambda: other)
    torch = real["versions"]["torch"]
    with pytest.raises(DriftError, match=f"Versions: torch {torch.replace('+', '.')} there, 9.9 here"):
        extract(*grown)


def test_nothing_is_embedded_again_where_nothing_is_added(grown, embedded):
    root, path = grown
    (root / "train/ants/new.png").unlink()
    (root / "train/ants/000.png").rename(root / "train/ants/zzz.png")
    assert extract(root, path).summary.computed == 0
    assert embedded == []


def test_rows_of_a_killed_run_are_found_without_an_index(make_photos, tmp_path, drifted, monkeypatch):
    from featx.store.writer import StoreWriter

    root, path = make_photos(splits={"train": 10}), tmp_path / "x.h5"
    original, calls = StoreWriter.add, []

    def add(self, *rows, **more):
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt
        original(self, *rows, **more)

    with monkeypatch.context() as patch:
        patch.setattr(StoreWriter, "add", add)
        with pytest.raises(KeyboardInterrupt):
            extract(root, path, batch_size=2)
    (parts,) = path.with_name("x.h5.parts").iterdir()
    before = parts.read_bytes()
    drifted(1.5)
    with pytest.raises(DriftError):
        extract(root, path, batch_size=2)
    assert parts.read_bytes() == before


def test_files_are_read_up_to_a_limit_only(grown, monkeypatch):
    """An index tells the digests; without one, so many files are read."""
    root, _ = grown
    source = open_source(root)
    records = list(source)
    reads = []
    monkeypatch.setattr(type(source), "read", lambda self, record: reads.append(record.name) or b"other")
    monkeypatch.setattr(canaries, "MOST_READ", 5)
    assert canaries._choose(source, records, {bytes(32)}, {}) == []
    assert len(reads) == 5
    digest = bytes(range(32))
    trusted = {record.name: (record.size, record.mtime_ns, digest) for record in records}
    assert len(canaries._choose(source, records, {digest}, trusted)) == canaries.CANARIES
    assert len(reads) == 5
    assert canaries._choose(source, records, set(), trusted) == []


def test_another_colour_of_the_same_pixels_is_beyond_every_tolerance(grown):
    """The widest tolerance still tells two images of one class apart."""
    store = featx.FeatureStore(grown[1])
    rows = np.asarray(store.X("flatten"), np.float64)
    distance = np.linalg.norm(rows[0] - rows[1]) / np.linalg.norm(rows[0])
    assert distance > max(canaries.TOLERANCE.values())


def test_a_new_layer_hides_no_drift(make_photos, tmp_path, drifted):
    """A layer and an image are asked for at once: no row is known for all layers, yet old rows are kept."""
    root, path = make_photos(splits={"train": 6}), tmp_path / "x.h5"
    options = {"backbone": "featx-tiny", "precision": "fp32"}
    featx.extract(root, path, **options)
    (root / "train/ants/new.png").write_bytes(png(photo("ants", 77)))
    drifted(1.5)
    with pytest.raises(DriftError):
        featx.extract(root, path, layers=["layer3.add"], **options)


def test_rows_are_compared_where_only_a_layer_is_added(make_photos, tmp_path, drifted):
    root, path = make_photos(splits={"train": 6}), tmp_path / "x.h5"
    options = {"backbone": "featx-tiny", "precision": "fp32"}
    featx.extract(root, path, **options)
    drifted(1.5)
    with pytest.raises(DriftError):
        featx.extract(root, path, layers=["layer3.add"], **options)
    drifted(1.0)
    assert len(featx.extract(root, path, layers=["layer3.add"], **options).layers) == 2
