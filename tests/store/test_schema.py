from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from featx.errors import StoreError
from featx.records import ImageRecord
from featx.store.reader import FeatureStore
from featx.store.schema import IndexRow, column_of_dataset, layer_of_name

TEXT = st.text(
    st.characters(min_codepoint=1, exclude_categories=["Cs"])
    | st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF),
    max_size=8,
).filter(lambda text: text == text.encode("utf-8", "surrogateescape").decode("utf-8", "surrogateescape"))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=TEXT.filter(bool), label=TEXT, group=TEXT, columns=st.dictionaries(TEXT, TEXT, max_size=4))
def test_any_text_comes_back(kit, path, name, label, group, columns):
    record = ImageRecord(name, label or None, None, group or None, 1, 2, columns)
    with kit.writer(path, overwrite=True) as writer:
        writer.add(*kit.rows([1]))
        writer.finish([IndexRow(record, kit.digest(1))], [], {})
    with FeatureStore(path) as store:
        assert store.records == [record]


def test_names_of_columns_stay_plain_where_they_can():
    assert column_of_dataset("camera") == "camera"
    assert column_of_dataset("a%2Fb%25") == "a/b%"
    assert column_of_dataset("%") == ""


def test_a_pooling_is_told_from_a_colon_in_a_name():
    assert layer_of_name("timm:block.1", 3).name == "timm:block.1:flatten"
    assert layer_of_name("block:avg", 3).node == "block"
    assert layer_of_name(":avg", 3).node == ":avg"


def test_images_that_share_no_column_get_empty_ones(kit, path):
    rows = [
        IndexRow(ImageRecord("a", columns={"x": "1"}), kit.digest(1)),
        IndexRow(ImageRecord("b", columns={"y": "2"}), kit.digest(2)),
    ]
    with kit.writer(path) as writer:
        writer.add(*kit.rows([1, 2]))
        writer.finish(rows, [], {})
    with FeatureStore(path) as store:
        assert {name: values.tolist() for name, values in store.columns.items()} == {
            "x": ["1", ""],
            "y": ["", "2"],
        }
        assert np.all(store.mtimes_ns == -1)


def test_a_column_that_hdf5_cannot_name_is_refused(kit, path):
    image = IndexRow(ImageRecord("a.jpg", columns={"\udcff": "v"}), kit.digest(0))
    with kit.writer(path) as writer:
        writer.add(*kit.rows([0]))
        with pytest.raises(StoreError, match=r"The column .*udcff.* is no Unicode text; rename it"):
            writer.finish([image], [], {})
