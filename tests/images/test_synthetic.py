import io

import numpy as np
from PIL import Image

from featx.images.synthetic import SyntheticSource, synthetic_photos


def test_every_photo_is_another_one_and_a_seed_gives_the_same():
    photos = synthetic_photos(12, seed=3)
    assert len(set(photos)) == 12
    assert photos == synthetic_photos(12, seed=3)
    assert not set(photos) & set(synthetic_photos(12, seed=4))


def test_they_come_in_any_size():
    assert Image.open(io.BytesIO(synthetic_photos(1, size=(91, 700))[0])).size == (91, 700)


def test_they_weigh_what_photos_weigh():
    # 108 KB is the median of ImageNet's photos of ants and bees, of the same size.
    for data in synthetic_photos(4):
        assert 80_000 < len(data) < 150_000


def test_the_energy_is_in_the_coarse_parts_as_in_photos():
    image = Image.open(io.BytesIO(synthetic_photos(1)[0])).convert("L")
    grey = np.asarray(image, np.float64)
    blurred = np.asarray(image.resize((125, 93), Image.Resampling.BOX).resize(image.size), np.float64)
    assert (grey - blurred).var() < 0.5 * blurred.var()


def test_the_source_reads_what_it_lists():
    source = SyntheticSource(3, seed=1)
    records = list(source)
    assert [source.read(record) for record in records] == synthetic_photos(3, seed=1)
    assert [record.size for record in records] == [len(source.read(record)) for record in records]
    assert source.kind == "3 synthetic JPEGs of 500×375"
