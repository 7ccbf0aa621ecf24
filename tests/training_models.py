"""Small classifiers and images for the tests of training."""

import numpy as np

from featx.backbones.trainable import load_trainable
from featx.training.classifier import Classifier
from featx.training.recipe import Recipe


def noise(n, seed=0, side=64):
    return np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


def tiny_classifier(n_classes=2, hidden=(), dropout=0.0, **options):
    network = load_trainable("featx-tiny", device="cpu", precision="fp32", **options)
    return Classifier(network, n_classes, 0, hidden, dropout)


def recipe(epochs=2, lr=1e-3, batch_size=4, augment="none", seed=0, **more):
    return Recipe(epochs, lr, batch_size, augment, seed, **more)
