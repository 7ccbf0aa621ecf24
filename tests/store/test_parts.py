from __future__ import annotations

import h5py
import numpy as np
import pytest

from featx.errors import DamagedStoreError
from featx.records import LayerInfo
from featx.store.gathering import OpenFiles, gather
from featx.store.parts import part_number, write_part
from featx.store.rowindex import RowIndex, RowSource


@pytest.fixture
def part(kit, tmp_path):
    def write(keys, layers=(kit.avg, kit.flat), **options):
        digests, phashes, features = kit.rows(keys, layers)
        half = {name: values.astype("<f2") for name, values in features.items()}
        return write_part(tmp_path, digests, phashes, half, kit.space(), layers, **options)

    return write


def test_h5py_alone_reads_a_part(kit, part):
    path = part([1, 2, 3], number=7, seconds=2.0, source="photos")
    assert part_number(path) == 7
    with h5py.File(path) as h5:
        assert set(h5) == {"rows", "features"}
        assert h5["rows/digest"][1].tobytes() == kit.digest(2)
        assert h5["rows/phash"].dtype == np.uint64
        assert h5.attrs["space_key"] == kit.space().key
        assert h5.attrs["seconds"] == 2.0
        assert np.array_equal(h5["features/layer4.1:avg"][:], kit.expected([1, 2, 3], kit.avg))


def test_rows_in_several_pieces_follow_each_other(kit, tmp_path):
    digests, phashes, features = kit.rows([1, 2, 3], [kit.avg])
    half = features["layer4.1:avg"].astype("<f2")
    pieces = {"layer4.1:avg": [half[:1], half[1:]]}
    path = write_part(tmp_path, digests, phashes, pieces, kit.space(), [kit.avg])
    with h5py.File(path) as h5:
        assert np.array_equal(h5["features/layer4.1:avg"][:], half)


def test_rows_are_found_layer_by_layer(kit, part):
    sources = [
        RowSource.open(part([1, 2]), check=True),
        RowSource.open(part([2, 3], [kit.flat]), check=True),
    ]
    index = RowIndex(sources)
    wanted = kit.rows([3, 2, 9, 1, 2])[0]
    source, row = index.locate("classifier.4:flatten", wanted)
    assert source.tolist() == [1, 0, -1, 0, 0]
    assert row[[0, 1, 3, 4]].tolist() == [1, 1, 0, 1]
    assert index.locate("layer4.1:avg", wanted)[0].tolist() == [-1, 0, -1, 0, 0]
    assert index.locate("nothing:avg", wanted)[0].tolist() == [-1] * 5
    assert index.known(["classifier.4:flatten"]) == {kit.digest(key) for key in (1, 2, 3)}
    assert index.known(["layer4.1:avg", "classifier.4:flatten"]) == {kit.digest(1), kit.digest(2)}
    assert RowIndex().known(["layer4.1:avg"]) == set()


@pytest.mark.parametrize("block_bytes", [1, 64, 1 << 20])
def test_rows_are_gathered_in_any_order(kit, part, block_bytes):
    sources = [RowSource.open(part(range(start, start + 4)), check=True) for start in (0, 4, 8)]
    index = RowIndex(sources)
    order = [5, 6, 7, 8, 0, 11, 10, 0, 1]
    with OpenFiles() as files:
        blocks = gather(
            files, sources, kit.avg, *index.locate("layer4.1:avg", kit.rows(order)[0]), block_bytes
        )
        assert np.array_equal(np.concatenate(list(blocks)), kit.expected(order, kit.avg))


def test_a_part_cut_off_after_it_was_opened_is_no_row_of_zeros(kit, part):
    path = part([1, 2], [kit.avg])
    source = RowSource.open(path, check=True)
    path.write_bytes(path.read_bytes()[:520])
    where = RowIndex([source]).locate("layer4.1:avg", kit.rows([1, 2])[0])
    with OpenFiles() as files, pytest.raises(DamagedStoreError, match=r"ends within 'layer4\.1:avg'"):
        list(gather(files, [source], kit.avg, *where))


def test_a_layer_name_that_python_would_trip_over_survives(kit, tmp_path):
    layer = LayerInfo("blocks.0.é:x", "cls", 2)
    digests, phashes, _ = kit.rows([1])
    path = write_part(tmp_path, digests, phashes, {layer.name: np.ones((1, 2), "<f2")}, kit.space(), [layer])
    assert RowSource.open(path, check=True).regions[layer.name].layer == layer
