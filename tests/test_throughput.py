import json

import numpy as np
import pytest
from pictures import photo, png

import featx
from featx.errors import FeatxError, SourceError, UnknownNameError
from featx.throughput import ROUNDS, Throughput, measure_throughput

GIVEN = {
    "backbone": "resnet50",
    "device": "cpu",
    "precision": "bf16",
    "auto_precision": "bf16",
    "batch_size": 16,
    "workers": 2,
    "compiled": True,
    "cores": 2,
    "source": "class folders",
    "images": 200,
    "skipped": 0,
    "rounds": 5,
    "decode_per_second": 700.0,
    "decode_per_core": 350.0,
    "network_per_second": 100.0,
    "end_to_end_per_second": 80.0,
    "hardware": {"cpu": "any"},
}


def given(**numbers):
    return Throughput(**GIVEN | numbers)


class TestBound:
    def test_on_a_cpu_the_times_of_an_image_add_up(self):
        found = given(network_per_second=100, decode_per_core=150, cores=2, end_to_end_per_second=60)
        assert found.bound == pytest.approx(75)  # 10 ms and 3.33 ms
        assert found.share == pytest.approx(0.8)

    def test_few_workers_do_not_lower_it(self):
        assert given(workers=1, decode_per_second=350.0).bound == given().bound

    @pytest.mark.parametrize("device", ["cuda", "cuda:1", "mps"])
    def test_beside_an_accelerator_the_slower_one_is_the_limit(self, device):
        assert given(device=device, network_per_second=3000, decode_per_core=350).bound == 700
        assert given(device=device, network_per_second=300, decode_per_core=350).bound == 300

    def test_json_holds_what_follows_from_the_numbers(self):
        found = given()
        data = json.loads(json.dumps(found.to_json()))
        assert data["bound_per_second"] == found.bound
        assert data["share"] == found.share
        assert data["sentence"] == found.sentence
        assert {name: data[name] for name in GIVEN} == GIVEN


class TestSentence:
    def test_the_network(self):
        text = given().sentence
        assert text.startswith("The network held it back (alone it gives 100 images/s, the decoder 700)")
        assert text.endswith(": use a smaller backbone, an earlier `--layer`, or a GPU.")

    def test_the_network_that_was_not_compiled(self):
        found = given(compiled=False)
        assert "use `--compile on`, a smaller backbone" in found.sentence
        assert "--compile" not in given(compiled=False, device="cuda", decode_per_core=9000).sentence

    def test_the_network_in_fp32_where_there_is_better(self):
        assert "`--precision auto` (bf16 here)" in given(precision="fp32").sentence
        assert "--precision" not in given(precision="fp32", auto_precision="fp32").sentence

    def test_the_network_on_a_gpu(self):
        found = given(device="cuda", cores=16, workers=16, network_per_second=900, end_to_end_per_second=850)
        assert "The network held it back" in found.sentence
        assert "`--batch-size 32`" in found.sentence
        assert "a GPU" not in found.sentence

    @pytest.mark.parametrize(("device", "reached"), [("cpu", 480), ("cuda", 690)])
    def test_the_decoder(self, device, reached):
        text = given(device=device, network_per_second=1800, end_to_end_per_second=reached).sentence
        assert text.startswith(
            "Decoding held it back (2 cores decode 700 images/s, the network could take 1800)"
        )
        assert "more cores" in text

    def test_the_decoder_could_do_less(self):
        slow = {"network_per_second": 1800, "end_to_end_per_second": 480}
        assert "`--fast-decode`" in given(**slow).sentence
        assert "--fast-decode" not in given(**slow, decoding="2+dct").sentence

    def test_too_few_workers(self):
        found = given(
            device="cuda",
            workers=1,
            decode_per_second=350,
            network_per_second=3000,
            end_to_end_per_second=345,
        )
        assert found.sentence == "Only 1 of 2 cores were at work: use `--workers auto`."
        assert given(device="cpu", workers=1, end_to_end_per_second=40).sentence == found.sentence
        assert "at work" not in given(device="cpu", workers=2, end_to_end_per_second=40).sentence

    def test_what_is_lost_between_them(self):
        text = given(end_to_end_per_second=given().bound / 2).sentence
        assert text.startswith("50% of what the bound allows was lost")
        assert "`--batch-size 32`" in text

    def test_few_workers_are_not_blamed_where_they_are_enough(self):
        found = given(device="cuda", workers=1, network_per_second=300, end_to_end_per_second=290)
        assert "The network held it back" in found.sentence

    @pytest.mark.parametrize("share", [0.1, 0.79, 0.81, 1.1])
    @pytest.mark.parametrize("device", ["cpu", "cuda"])
    @pytest.mark.parametrize("network", [50.0, 5000.0])
    def test_is_one_line_that_ends(self, share, device, network):
        bound = given(device=device, network_per_second=network).bound
        text = given(device=device, network_per_second=network, end_to_end_per_second=share * bound).sentence
        assert "\n" not in text
        assert text.endswith(".")


class TestMeasuring:
    def test_of_rendered_images(self):
        steps = []
        found = measure_throughput(
            backbone="featx-tiny",
            device="cpu",
            batch_size=4,
            workers=2,
            images=6,
            seconds=0.1,
            on_progress=steps.append,
        )
        assert (found.backbone, found.device, found.batch_size, found.workers) == ("featx-tiny", "cpu", 4, 2)
        assert (found.images, found.skipped) == (6, 0)
        assert "synthetic" in found.source
        for rate in (found.decode_per_second, found.decode_per_core, found.network_per_second):
            assert found.end_to_end_per_second > 0
            assert np.isfinite(rate)
        assert found.bound < min(found.network_per_second, found.cores * found.decode_per_core)
        assert 1 <= found.rounds <= ROUNDS
        assert steps[0].done == 0
        assert steps[-1].done == steps[-1].total == 4 * found.rounds
        assert [step.done for step in steps] == list(range(len(steps)))
        assert found.hardware["versions"]["featx"] == featx.__version__
        assert found.compiled is False

    def test_compiled_or_not_is_said_and_passed_on(self, monkeypatch):
        from featx.backbones import network

        asked, original = [], network.load_network

        def load(*names, **options):
            asked.append(options["compile"])
            return original(*names, **options)

        monkeypatch.setattr(network, "load_network", load)
        found = [
            measure_throughput(backbone="pixels", images=1, seconds=0.02, device="cpu", **options).compiled
            for options in ({}, {"compile": "off"})
        ]
        assert (asked, found) == (["auto", "off"], [False, False])

    def test_every_batch_is_full_and_of_the_size_that_is_reported(self, embedded):
        found = measure_throughput(
            backbone="pixels", device="cpu", batch_size=5, images=3, seconds=0.05, workers=1
        )
        assert found.batch_size == 5
        assert set(embedded) == {5}

    def test_of_a_folder_with_a_bad_image(self, make_photos):
        root = make_photos(splits={"train": 4})
        (root / "train" / "ants" / "bad.png").write_bytes(png(photo("ants", 0))[:40])
        found = measure_throughput(root, backbone="pixels", device="cpu", seconds=0.02)
        assert (found.images, found.skipped) == (8, 1)
        assert found.source == f"split folders, {root}"
        assert found.precision == found.auto_precision == "fp32"

    def test_images_are_taken_from_the_whole_source(self, make_photos, monkeypatch):
        from featx import throughput

        taken = []
        original = throughput.Feed

        def feed(network, source, records, *rest):
            taken.extend(record.name for record in records)
            return original(network, source, records, *rest)

        monkeypatch.setattr(throughput, "Feed", feed)
        root = make_photos(splits={"": 5})
        measure_throughput(root, backbone="pixels", device="cpu", images=3, seconds=0.02)
        assert taken == ["ants/000.png", "ants/004.png", "bees/004.png"]

    def test_what_changes_the_network_is_passed_on(self):
        found = measure_throughput(
            backbone="squeezenet1_1",
            weights="none",
            layers=["features.3"],
            image_size=32,
            precision="fp32",
            device="cpu",
            batch_size=1,
            images=1,
            seconds=0.02,
        )
        assert found.precision == "fp32"
        with pytest.raises(UnknownNameError, match=r"feature\.3"):
            measure_throughput(backbone="squeezenet1_1", weights="none", layers=["feature.3"], images=1)

    def test_a_source_without_a_usable_image(self, tmp_path):
        (tmp_path / "bad.png").write_bytes(b"gone")
        with pytest.raises(SourceError, match=r"None of 1 images can be used \(bad\.png: not an image"):
            measure_throughput(tmp_path, backbone="pixels", device="cpu")

    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"images": 0}, "images=0"),
            ({"seconds": 0}, "seconds=0"),
            ({"batch_size": 0}, "batch size of 0"),
            ({"workers": 0}, "0 workers"),
            ({"image_size": 0}, "image size of 0"),
        ],
    )
    def test_wrong_numbers(self, options, text):
        with pytest.raises(FeatxError, match=text):
            measure_throughput([np.zeros((8, 8, 3), np.uint8)], **{"backbone": "pixels"} | options)
