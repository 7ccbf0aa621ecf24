import csv
import io
import json

import numpy as np
import pytest
import torch
from pictures import photo, png

import featx
from featx.errors import BackboneError, FeatxError
from featx.prediction import format_predictions
from featx.records import Prediction

ROWS = [
    Prediction('a "b",\n.jpg', ("x,y", "z"), (0.75, 0.25)),
    Prediction("latin-\udce9.jpg", ("z", "x,y"), (0.5, 0.5)),
    Prediction("broken.jpg", (), (), "the file is empty"),
]


class TestFormats:
    def test_csv_reads_back(self):
        text = "".join(format_predictions(ROWS, "csv", top=2))
        header, *rows = csv.reader(io.StringIO(text))
        assert header == ["name", "label", "probability", "label_2", "probability_2", "error"]
        assert rows[0] == ['a "b",\n.jpg', "x,y", "0.750000", "z", "0.250000", ""]
        assert rows[1][0].encode("utf-8", "surrogateescape") == b"latin-\xe9.jpg"
        assert rows[2] == ["broken.jpg", "", "", "", "", "the file is empty"]

    def test_json_lines_have_the_same_keys_in_every_line(self):
        lines = [json.loads(line) for line in format_predictions(ROWS, "jsonl", top=2)]
        assert {tuple(line) for line in lines} == {
            ("name", "label", "probability", "label_2", "probability_2", "error")
        }
        assert lines[0]["name"] == 'a "b",\\n.jpg'
        assert lines[1]["name"] == "latin-\\udce9.jpg"
        assert lines[2]["label"] is None

    def test_json_lines_are_text_whatever_bytes_a_label_has(self):
        rows = [Prediction("a.jpg", ("caf\udce9",), (1.0,)), Prediction("b.jpg", (), (), "no \udcff")]
        text = "".join(format_predictions(rows, "jsonl")).encode("utf-8")
        good, bad = (json.loads(line) for line in text.splitlines())
        assert good["label"] == "caf\\udce9"
        assert bad["error"] == "no \\udcff"

    def test_another_format(self):
        with pytest.raises(FeatxError, match="csv or jsonl"):
            list(format_predictions(ROWS, "xml"))


class TestClassify:
    def test_is_the_softmax_of_the_network_itself(self, tmp_path):
        from torchvision.models import SqueezeNet1_1_Weights, squeezenet1_1

        torch.manual_seed(0)
        network = squeezenet1_1().eval()
        torch.save(network.state_dict(), tmp_path / "weights.pth")
        images = [photo("ants", seed, (300, 260)) for seed in range(3)]
        record = SqueezeNet1_1_Weights.IMAGENET1K_V1
        with torch.inference_mode():
            expected = network(torch.stack([record.transforms()(image) for image in images])).softmax(dim=1)
        found = list(
            featx.classify(images, "squeezenet1_1", weights=tmp_path / "weights.pth", precision="fp32")
        )
        for prediction, row in zip(found, expected, strict=True):
            top = row.topk(5)
            np.testing.assert_allclose(prediction.probabilities, top.values, rtol=1e-3)
            assert prediction.labels[0] == record.meta["categories"][int(top.indices[0])]

    def test_an_image_that_cannot_be_used_keeps_its_place(self, tmp_path):
        for name, data in {
            "a.png": png(photo("ants", 1)),
            "b.png": b"x",
            "c.png": png(photo("bees", 1)),
        }.items():
            (tmp_path / name).write_bytes(data)
        found = list(featx.classify(tmp_path, "featx-tiny", batch_size=1))
        assert [prediction.name for prediction in found] == ["a.png", "b.png", "c.png"]
        assert [bool(prediction.error) for prediction in found] == [False, True, False]
        assert all(len(prediction.labels) == 5 for prediction in (found[0], found[2]))

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"backbone": "featx-tiny", "weights": "none"}, "know no classes"),
            ({"backbone": "pixels"}, "not known"),
        ],
    )
    def test_a_network_without_classes(self, options, text):
        with pytest.raises(BackboneError, match=text):
            list(featx.classify([photo("ants", 1)], **options))
