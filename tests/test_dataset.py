import numpy as np
import pytest

from featx.dataset import open_dataset
from featx.errors import DamagedStoreError, DatasetError, StoreError, UnknownNameError
from featx.store.reader import FeatureStore

NAMES = [f"{index}.png" for index in range(6)]


def make(path, **columns):
    columns = {"y": list("ababab"), "splits": ["train"] * 4 + ["test"] * 2} | columns
    return FeatureStore.from_arrays(path, np.eye(6), columns.pop("y"), NAMES, **columns)


@pytest.fixture
def store(tmp_path):
    return make(tmp_path / "x.h5", groups=list("uuvvww"))


@pytest.fixture
def table(tmp_path):
    def write(text):
        path = tmp_path / "labels.csv"
        path.write_text(text)
        return path

    return write


class TestDamagedRows:
    @pytest.fixture
    def damaged(self, store, tmp_path):
        """Row 0 begins with -1 instead of 1."""
        path = tmp_path / "x.h5"
        data = bytearray(path.read_bytes())
        place = store.X("imported").offset
        assert data[place : place + 4] == np.float32(1).tobytes()
        data[place + 3] ^= 0x80
        path.write_bytes(data)
        return path

    def test_are_not_used(self, damaged):
        with pytest.raises(DamagedStoreError, match=r"x\.h5 is damaged: the SHA-256"):
            open_dataset([damaged])

    def test_are_not_used_from_an_open_store_nor_a_second_one(self, damaged, tmp_path):
        opened = FeatureStore(damaged)
        assert opened.X("imported")[0, 0] == -1
        other = make(tmp_path / "y.h5", groups=list("uuvvww"))
        with pytest.raises(DamagedStoreError, match=r"x\.h5 is damaged"):
            open_dataset([other, opened])

    def test_a_sound_store_is_hashed_with_progress(self, store):
        steps = []
        open_dataset([store], on_progress=steps.append)
        assert steps[-1].done == steps[-1].total == store.nbytes


class TestMapping:
    @pytest.mark.parametrize("nothing", [None, float("nan"), np.float32("nan"), "", " "])
    def test_none_and_nan_are_no_label(self, store, nothing):
        labels = dict(zip(NAMES, ["a", nothing, "b", nothing, 1, 2.5], strict=True))
        assert open_dataset([store], labels=labels).labels.tolist() == ["a", "", "b", "", "1", "2.5"]

    def test_has_no_columns(self, store):
        with pytest.raises(DatasetError, match="'species' beside a mapping"):
            open_dataset([store], labels={"0.png": "a"}, label="species")

    @pytest.mark.parametrize("labels", [{}, {"photos/0.png": "a"}])
    def test_of_other_names(self, store, labels):
        with pytest.raises(DatasetError, match=rf"None of the {len(labels)} names .* like 0\.png"):
            open_dataset([store], labels=labels)

    def test_names_of_no_image_are_counted(self, store):
        data = open_dataset([store], labels={"0.png": "a", "zz.png": "b", "yy\n.png": "c"})
        assert data.notes == ("2 of 3 names in the mapping are no image of the store, such as yy\\n.png",)

    def test_splits_and_groups_stay_those_of_the_store(self, store):
        data = open_dataset([store], labels={"0.png": "a"})
        assert data.splits.tolist() == store.splits.tolist()
        assert data.groups.tolist() == list("uuvvww")


class TestCsv:
    def test_white_space_is_no_part_of_a_label(self, store, table):
        data = open_dataset([store], labels=table("name, label\n0.png, ant\n1.png,bee \n2.png,\n"))
        assert data.labels.tolist() == ["ant", "bee", "", "", "", ""]
        assert data.notes == ()

    def test_a_name_twice_must_say_the_same(self, store, table):
        same = table("name,label,age\n0.png,ant,1\n1.png,bee,2\n0.png,ant,3\n")
        assert open_dataset([store], labels=same).labels[0] == "ant"
        with pytest.raises(DatasetError, match=r"names 0\.png twice, with the age '1' and with '3'"):
            open_dataset([store], labels=same, label="age")

    def test_names_of_no_image_are_counted(self, store, table):
        data = open_dataset([store], labels=table("name,label\n0.png,ant\n7.png,bee\n8.png,bee\n"))
        assert data.notes == ("2 of 3 names in the CSV are no image of the store, such as 7.png",)

    def test_its_splits_replace_those_of_the_store(self, store, table):
        rows = zip(NAMES, ["Test", "training", "valid", "validation", "val", ""], strict=True)
        path = table("\n".join(["name,label,split", *(f"{name},a,{split}" for name, split in rows)]))
        data = open_dataset([store], labels=path)
        assert data.splits.tolist() == ["test", "train", "val", "val", "val", ""]
        assert data.notes == ("the splits are those of the column split in labels.csv",)

    def test_a_column_without_a_split_changes_nothing(self, store, table):
        data = open_dataset([store], labels=table("name,label,split\n0.png,a,\n"))
        assert data.splits.tolist() == store.splits.tolist()

    def test_an_unknown_split(self, store, table):
        with pytest.raises(DatasetError, match=r"1\.png the split 'holdout'; expected train, val or test"):
            open_dataset([store], labels=table("name,label,split\n0.png,a,train\n1.png,a,holdout\n"))

    def test_its_groups_are_used(self, store, table):
        path = table("name,label,group,split,ward\n0.png,a,x,test,k\n1.png,b,y,train,k\n")
        data = open_dataset([store], labels=path)
        assert data.groups.tolist() == ["x", "y", "", "", "", ""]
        assert "the groups are those of the column group in labels.csv" in data.notes
        assert open_dataset([store], labels=path, group="ward").groups.tolist() == ["k", "k", "", "", "", ""]

    def test_what_is_the_label_is_no_split_and_no_group(self, store, table):
        path = table("name,split,group\n0.png,early,x\n1.png,late,y\n")
        assert open_dataset([store], labels=path, label="split").splits.tolist() == store.splits.tolist()
        with pytest.raises(DatasetError, match="'early'"):
            open_dataset([store], labels=path, label="group")

    def test_an_unknown_column(self, store, table):
        with pytest.raises(UnknownNameError, match="'label'"):
            open_dataset([store], labels=table("name,labels\n0.png,a\n"))

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("name,label\n0.png,a\n1.png,b,c\n", r"more cells in line 3 than its header's 2"),
            ("name,label\n0.png," + "a" * 200_000, r"labels\.csv is no CSV \(field larger"),
            ("", "holds no rows"),
            ("image,label\n0.png,a\n", "expected one of name, path"),
        ],
    )
    def test_what_is_no_table_of_labels(self, store, table, text, words):
        with pytest.raises(DatasetError, match=words):
            open_dataset([store], labels=table(text))


class TestSeveralStores:
    def test_of_other_splits_are_refused(self, store, tmp_path):
        other = make(tmp_path / "y.h5", splits=["train"] * 3 + ["test"] * 3)
        with pytest.raises(StoreError, match=r"1 images another split, such as 3\.png: 'train' and 'test'"):
            open_dataset([store, other])

    def test_of_other_labels_are_refused_where_they_are_used(self, store, tmp_path):
        other = make(tmp_path / "y.h5", y=list("abbbab"))
        with pytest.raises(StoreError, match=r"1 images another label, such as 2\.png: 'a' and 'b'"):
            open_dataset([store, other])
        labels = dict(zip(NAMES, "xyxyxy", strict=True))
        assert open_dataset([store, other], labels=labels).labels.tolist() == list("xyxyxy")

    def test_are_compared_by_name(self, store, tmp_path):
        turned = FeatureStore.from_arrays(
            tmp_path / "y.h5", np.eye(6), store.y[::-1], NAMES[::-1], splits=store.splits[::-1]
        )
        assert open_dataset([store, turned]).order[1].tolist() == [5, 4, 3, 2, 1, 0]


def test_layers_are_joined_by_a_plus(tmp_path):
    rng = np.random.default_rng(0)
    a, b, c = (rng.normal(size=(6, width)).astype(np.float32) for width in (2, 3, 4))
    one = FeatureStore.from_arrays(tmp_path / "one.h5", {"a": a, "b": b}, list("xyxyxy"))
    two = FeatureStore.from_arrays(tmp_path / "two.h5", {"a": a, "c": c}, list("xyxyxy"))
    data = open_dataset([one, two])
    names = [(store, layer.name) for store, layer in data.layers(["a+b", "c", "b+a"])]
    first, second = one.layers
    alone = next(layer for layer in two.layers if layer.node == "c")
    assert names == [
        (0, f"{first.name}+{second.name}"),
        (0, f"{second.name}+{first.name}"),
        (1, alone.name),
    ]
    (_, joined), *_ = data.layers(["a+b"])
    rows = np.array([4, 1])
    np.testing.assert_array_equal(data.matrix(0, joined, rows), np.hstack([a, b])[rows])
    with pytest.raises(DatasetError, match=r"No store has all the layers of b\+c; join layers of one store"):
        data.layers(["b+c"])
    with pytest.raises(UnknownNameError, match="Unknown layer 'd'"):
        data.layers(["a+d"])
