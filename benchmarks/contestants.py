"""Every way of embedding that is compared, each run alone: ``python contestants.py OPTIONS``, as JSON.

Each is written as its own documentation has it. Nothing is imported here that a contestant does not need,
because its imports are part of its time. Each adds marks (images done so far, time), for the steady state.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

RUN_IN = 0.25
"""Share of the images before the steady state is measured."""

BATCH = 32
"""Images per batch of everyone but featx, as people have it."""

TIMM_NAMES = {
    "resnet18": "resnet18.tv_in1k",
    "resnet50": "resnet50.tv_in1k",
    "mobilenet_v3_small": "mobilenetv3_small_100.lamb_in1k",
}
"""The same networks in timm; ``tv_in1k`` has torchvision's weights and preprocessing too."""

IMG2VEC_NAMES = {"resnet18": "resnet18", "resnet50": "resnet50"}

Options = dict[str, Any]
Marks = list[tuple[int, float]]


def run_featx(folder: Path, options: Options, marks: Marks) -> Any:
    """``featx.extract``, store written and closed."""
    import featx
    from featx.environment import peak_memory_bytes

    given: Options = options.get("featx", {})
    if "preprocess" in given:
        from featx.records import Preprocess

        given["preprocess"] = Preprocess.from_json(given["preprocess"])
    if given.get("precision") == "fp32":
        given["store_dtype"] = "float32"
    with tempfile.TemporaryDirectory() as target:
        store = featx.extract(
            folder,
            Path(target) / "x.h5",
            backbone=options["backbone"],
            weights=options["weights"],
            device=options["device"],
            on_progress=lambda step: marks.append((step.done, time.perf_counter())),
            **given,
        )
        run = store.summary
        if run is None or run.computed != len(store) or run.skipped:
            raise SystemExit(f"featx did not compute every image: {run}")
        for note in run.notes:
            print(f"featx notes: {note}", file=sys.stderr)
        options["found"] = {
            "precision": store.space.precision,
            "store_dtype": store.space.store_dtype,
            # Before the rows are read back, all at once, which is no part of an extraction.
            "peak_memory_bytes": peak_memory_bytes(),
        }
        rows = store.X(store.layers[0].name).astype("float32")
        store.close()
    return rows


def run_plain(folder: Path, options: Options, marks: Marks) -> Any:
    """Pillow, a DataLoader, and torchvision's feature extractor."""
    import torch
    from torchvision.models import get_model, get_model_weights
    from torchvision.models.feature_extraction import create_feature_extractor

    model = get_model(options["backbone"])
    model.load_state_dict(torch.load(options["weights"], weights_only=True))
    node = options["node"]
    extractor = create_feature_extractor(model.eval(), [node]).to(options["device"])
    transform = next(iter(get_model_weights(options["backbone"]))).transforms()

    def embed(batch: Any) -> Any:
        features = extractor(batch)[node]
        return features.mean((2, 3)) if features.ndim == 4 else features.flatten(1)

    return _by_loader(folder, transform, embed, options["device"], marks)


def run_timm(folder: Path, options: Options, marks: Marks) -> Any:
    """Run a network of timm without its classifier, with its own transform and a DataLoader."""
    import timm
    from timm.data import create_transform, resolve_data_config

    model = timm.create_model(TIMM_NAMES[options["backbone"]], pretrained=True, num_classes=0)
    model = model.eval().to(options["device"])
    transform = create_transform(**resolve_data_config({}, model=model))
    return _by_loader(folder, transform, model, options["device"], marks)


def run_img2vec(folder: Path, options: Options, marks: Marks) -> Any:
    """``Img2Vec.get_vec`` of lists of images, its faster way."""
    import numpy as np
    from img2vec_pytorch import Img2Vec
    from PIL import Image

    device, _, index = options["device"].partition(":")
    network = Img2Vec(cuda=device == "cuda", model=IMG2VEC_NAMES[options["backbone"]], gpu=int(index or 0))
    paths, rows = sorted(folder.glob("*.jpg")), []
    for start in range(0, len(paths), BATCH):
        images = [Image.open(path).convert("RGB") for path in paths[start : start + BATCH]]
        rows.append(network.get_vec(images))
        marks.append((start + len(images), time.perf_counter()))
    return np.concatenate(rows)


def run_embetter(folder: Path, options: Options, marks: Marks) -> Any:
    """Run the pipeline of embetter from paths to rows, some paths at a time, so that memory is bounded."""
    import numpy as np
    from embetter.vision import ImageLoader, TimmEncoder
    from sklearn.pipeline import make_pipeline

    encoder = TimmEncoder(name=TIMM_NAMES[options["backbone"]])
    if options.get("in_eval_mode"):
        encoder.model.eval()
    pipeline = make_pipeline(ImageLoader(convert="RGB"), encoder)
    paths, rows = sorted(folder.glob("*.jpg")), []
    for start in range(0, len(paths), BATCH):
        rows.append(pipeline.fit_transform(paths[start : start + BATCH]))
        marks.append((start + len(rows[-1]), time.perf_counter()))
    return np.concatenate(rows)


def _by_loader(folder: Path, transform: Any, embed: Any, device: str, marks: Marks) -> Any:
    """Feed a network from a DataLoader with a worker for each core."""
    import torch
    from PIL import Image
    from torch.utils.data import DataLoader, Dataset

    class Photos(Dataset[torch.Tensor]):
        def __init__(self) -> None:
            self.paths = sorted(folder.glob("*.jpg"))

        def __len__(self) -> int:
            return len(self.paths)

        def __getitem__(self, index: int) -> torch.Tensor:
            image: torch.Tensor = transform(Image.open(self.paths[index]).convert("RGB"))
            return image

    loader = DataLoader(
        Photos(), batch_size=BATCH, num_workers=os.cpu_count() or 1, pin_memory=device.startswith("cuda")
    )
    rows = []
    with torch.inference_mode():
        for batch in loader:
            rows.append(embed(batch.to(device)).cpu())
            marks.append((sum(map(len, rows)), time.perf_counter()))
    return torch.cat(rows).numpy()


CONTESTANTS: dict[str, Callable[[Path, Options, Marks], Any]] = {
    "featx": run_featx,
    "plain": run_plain,
    "timm": run_timm,
    "img2vec": run_img2vec,
    "embetter": run_embetter,
}


def main() -> None:
    options: Options = json.loads(sys.argv[1])
    marks: Marks = []
    rows = CONTESTANTS[options["run"]](Path(options["data"]), options, marks)
    ended = time.perf_counter()
    from featx.environment import peak_memory_bytes

    figures: Options = {"images": len(rows), "peak_memory_bytes": peak_memory_bytes()}
    begin = next(mark for mark in marks if mark[0] >= RUN_IN * len(rows))
    if begin[0] < len(rows):
        figures["steady_per_second"] = (len(rows) - begin[0]) / (ended - begin[1])
    if options["device"].startswith("cuda"):
        import torch

        figures["peak_device_memory_bytes"] = torch.cuda.max_memory_reserved()
    figures |= options.get("found", {})
    # A few rows of every run are kept, which costs no time and shows that the run was a true one.
    import numpy as np

    np.save(options["rows"], rows[: options["kept"]])
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
