"""Ways of fine-tuning whose epochs are compared, each run alone: ``python epochs.py OPTIONS``, as JSON.

Both begin with the same weights, see random crops and mirrored images of the same files in batches of the
same size, and take the same steps (SGD, momentum 0.9) at the same rate.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

RATE, MOMENTUM = 0.001, 0.9
"""Of the tutorial."""

Options = dict[str, Any]


def run_tutorial(options: Options) -> Options:
    """Train as in torchvision's tutorial: a DataLoader that decodes, float32, everything unfrozen.

    Source: https://docs.pytorch.org/tutorials/beginner/transfer_learning_tutorial.html (training part), with
    a worker for each core; the layers that are replaced in SqueezeNet and MobileNetV2 are those of
    https://docs.pytorch.org/tutorials/beginner/finetuning_torchvision_models_tutorial.html.
    """
    import torch
    from torch import nn, optim
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms
    from torchvision.models import get_model

    torch.manual_seed(options["seed"])
    transform = transforms.Compose(
        [
            transforms.RandomResizedCrop(224),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
        ]
    )
    dataset = datasets.ImageFolder(options["data"], transform)
    loader = DataLoader(dataset, options["batch_size"], shuffle=True, num_workers=os.cpu_count() or 1)
    model = get_model(options["backbone"])
    model.load_state_dict(torch.load(options["weights"], weights_only=True))
    if hasattr(model, "fc"):
        model.fc = nn.Linear(model.fc.in_features, len(dataset.classes))
    elif options["backbone"].startswith("squeezenet"):
        model.classifier[1] = nn.Conv2d(512, len(dataset.classes), kernel_size=1)
    else:
        model.classifier[-1] = nn.Linear(model.classifier[-1].in_features, len(dataset.classes))
    device = torch.device(options["device"])
    model = model.to(device)
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM)
    epochs = []
    for _ in range(options["epochs"]):
        started = time.perf_counter()
        model.train()
        running_loss, running_corrects = 0.0, 0
        for inputs, labels in loader:
            inputs, labels = inputs.to(device), labels.to(device)
            optimizer.zero_grad()
            outputs = model(inputs)
            _, predicted = torch.max(outputs, 1)
            loss = criterion(outputs, labels)
            loss.backward()
            optimizer.step()
            running_loss += loss.item() * inputs.size(0)
            running_corrects += int(torch.sum(predicted == labels.data))
        epochs.append(
            {
                "seconds": time.perf_counter() - started,
                "loss": running_loss / len(dataset),
                "accuracy": running_corrects / len(dataset),
            }
        )
    return {"epochs": epochs, "images": len(dataset), "before_seconds": 0.0}


def run_featx(options: Options) -> Options:
    """Train as ``featx finetune --init random --optimizer sgd --augment crop`` does, one training alone."""
    import numpy as np

    from featx.backbones.trainable import load_trainable
    from featx.images.loading import default_workers
    from featx.images.sources import list_images, open_source
    from featx.training.augmentation import Augmenter
    from featx.training.classifier import Classifier
    from featx.training.feeds import make_feed
    from featx.training.loop import train
    from featx.training.pixels import load_images
    from featx.training.recipe import Recipe

    started = time.perf_counter()
    network = load_trainable(
        options["backbone"],
        weights=options["weights"],
        precision=options["precision"],
        device=options["device"],
    )
    if options["compile"]:
        network.compile()
    source = open_source(options["data"])
    data = load_images(
        source, list_images(source), network.preprocess, workers=default_workers(), max_skip=0.0
    )
    classes, codes = np.unique(data.labels, return_inverse=True)
    model = Classifier(network, len(classes), options["seed"])
    recipe = Recipe(options["epochs"], RATE, options["batch_size"], "crop", options["seed"], optimizer="sgd")
    feed = make_feed(model, data.pixels, Augmenter("crop", network.preprocess), recipe.batch_size)
    decoded = time.perf_counter() - started
    curve = train(model, feed, np.arange(len(codes)), codes, recipe)
    kept = ("seconds", "loss", "accuracy")
    return {
        "epochs": [{name: entry[name] for name in kept} for entry in curve],
        "images": len(codes),
        "before_seconds": decoded,
        "precision": network.precision,
    }


WAYS: dict[str, Callable[[Options], Options]] = {"featx": run_featx, "tutorial": run_tutorial}


def write_weights(options: Options) -> Options:
    """Write random weights for both, with activations of the scale that training gives them."""
    import torch
    from seeding import seeded_network

    torch.save(seeded_network(options["backbone"]).state_dict(), options["weights"])
    return {}


def main() -> None:
    options: Options = json.loads(sys.argv[1])
    if options["run"] == "weights":
        print(json.dumps(write_weights(options)))
        return
    figures = WAYS[options["run"]](options)
    from featx.environment import peak_memory_bytes

    figures["peak_memory_bytes"] = peak_memory_bytes()
    if options["device"].startswith("cuda"):
        import torch

        figures["accelerator"] = torch.cuda.get_device_name(torch.device(options["device"]))
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
