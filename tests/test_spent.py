"""Where the time went: rates from sums, and one sentence."""

import threading

import pytest

from featx.spent import FEWEST, GOOD_SHARE, Spent

NETWORK = "The network held it back (90% of the time): use a smaller backbone, an earlier --layer, or a GPU."


def on_cores(**changed):
    """Two threads that were never idle: 1000 images in 10 s."""
    return Spent(**{"images": 1000, "decoding": 2.0, "computing": 18.0, "wall": 10.0, "threads": 2} | changed)


def beside(**changed):
    """Four threads that decode 400 images/s beside an accelerator that takes 125."""
    given = {"images": 1000, "decoding": 10.0, "computing": 8.0, "wall": 8.2, "threads": 4}
    return Spent(**given | {"shares_cores": False} | changed)


class TestRates:
    def test_on_a_cpu_the_times_of_an_image_add_up(self):
        speed = on_cores(wall=12.5).speed()
        assert speed.images_per_second == pytest.approx(80)
        assert speed.decode_per_second == pytest.approx(1000)
        assert speed.network_per_second == pytest.approx(1000 / 9)
        assert speed.bound_per_second == pytest.approx(100)
        assert speed.share == pytest.approx(0.8)

    @pytest.mark.parametrize(("decoding", "bound"), [(10.0, 125), (40.0, 100)])
    def test_beside_an_accelerator_the_slower_one_is_the_limit(self, decoding, bound):
        speed = beside(decoding=decoding).speed()
        assert speed.decode_per_second == pytest.approx(4000 / decoding)
        assert speed.network_per_second == pytest.approx(125)
        assert speed.bound_per_second == pytest.approx(bound)

    def test_images_that_needed_no_network_are_left_out(self):
        # 3 s of two threads, in which other images were read and known.
        assert on_cores(wall=13.0, passing=6.0).speed() == on_cores().speed()
        # The accelerator computed beside it: no more than it can.
        assert beside(passing=30.0).speed().share == pytest.approx(1)

    @pytest.mark.parametrize("images", [0, 1, FEWEST - 1])
    def test_few_images_say_nothing(self, images):
        assert on_cores(images=images).speed() is None
        assert on_cores(images=FEWEST).speed() is not None

    @pytest.mark.parametrize("name", ["decoding", "computing", "wall"])
    def test_nothing_is_divided_by_nothing(self, name):
        assert on_cores(**{name: 0.0}).speed() is None

    def test_sums_from_many_threads(self):
        spent = Spent()

        def add():
            for _ in range(1000):
                spent.add(images=1, decoding=0.5, computing=0.25, reading=2.0, passing=1.0)

        threads = [threading.Thread(target=add) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert spent == Spent(4000, decoding=2000, computing=1000, reading=8000, passing=4000)


class TestSentence:
    def test_the_network(self):
        assert on_cores().speed().sentence == NETWORK

    def test_the_network_beside_the_cores(self):
        sentence = beside().speed().sentence
        assert sentence == (
            "The network held it back (98% of the time): use a smaller backbone or an earlier --layer."
        )

    def test_the_decoder(self):
        assert on_cores(decoding=15.0, computing=5.0).speed().sentence == (
            "Decoding held it back (75% of the time): use more cores, --fast-decode for large JPEGs, or "
            "store the images smaller."
        )
        slow = beside(decoding=36.0, computing=1.0, wall=10.0).speed().sentence
        assert slow.startswith("Decoding held it back (90% of the time): use more cores")

    def test_waiting_for_files(self):
        # Half of the time of both threads.
        text = on_cores(wall=20.0, reading=20.0).speed().sentence
        assert text == ("Waiting for files held it back (50% of the time): copy the images to a faster disk.")
        assert "Waiting for files" in beside(wall=16.0, reading=40.0).speed().sentence

    def test_waiting_for_something_else(self):
        text = on_cores(wall=20.0, reading=1.0).speed().sentence
        assert text.startswith("50% of the time was lost to waiting, for other programs or for writing")

    def test_what_is_lost_is_said_only_where_it_is_much(self):
        assert on_cores(wall=10.0 / (GOOD_SHARE + 0.01)).speed().sentence == NETWORK
        assert "lost to waiting" in on_cores(wall=10.0 / (GOOD_SHARE - 0.01)).speed().sentence

    @pytest.mark.parametrize("make", [on_cores, beside])
    @pytest.mark.parametrize("wall", [1.0, 10.0, 100.0])
    @pytest.mark.parametrize("reading", [0.0, 300.0])
    @pytest.mark.parametrize("decoding", [0.1, 100.0])
    def test_is_one_line_that_ends(self, make, wall, reading, decoding):
        text = make(wall=wall, reading=reading, decoding=decoding).speed().sentence
        assert "\n" not in text
        assert text.endswith(".")
