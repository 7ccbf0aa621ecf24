"""A network with a linear classifier on top, which may start as a fitted head."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from featx.backbones.trainable import TrainableNetwork

__all__ = ["Classifier", "fold_head"]


class Classifier(nn.Module):
    """Images to scores before the softmax.

    Parameters
    ----------
    network : TrainableNetwork
    n_classes : int
    seed : int
        Of the linear layer's random start.
    """

    def __init__(self, network: TrainableNetwork, n_classes: int, seed: int) -> None:
        super().__init__()
        self.network = network
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.linear = nn.Linear(network.layer.dim, n_classes).to(network.device)

    def forward(self, images: Tensor) -> Tensor:
        """Score images (n, 3, H, W), uint8, as (n, n_classes), float32."""
        return self.linear(self.network(images))  # type: ignore[no-any-return]

    @torch.no_grad()
    def set_linear(self, weight: NDArray[np.float64], bias: NDArray[np.float64]) -> None:
        """Set the classifier to what :func:`fold_head` gives."""
        self.linear.weight.copy_(torch.from_numpy(weight))
        self.linear.bias.copy_(torch.from_numpy(bias))

    @property
    def n_trained(self) -> int:
        """How many numbers are trained."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)


def fold_head(estimator: Any) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Write standardisation and logistic regression as one linear layer.

    With the scaler's mean m and deviation s, w·((x − m) / s) + b = (w / s)·x + (b − w·(m / s)). Of two
    classes scikit-learn keeps the difference of the scores only; half of it with either sign gives the
    same probabilities, since softmax(−z/2, z/2) = (1 − σ(z), σ(z)).

    Parameters
    ----------
    estimator : Pipeline
        The fitted head ``logreg``: ``scaler``, then ``classifier``.

    Returns
    -------
    weight : ndarray of float64, (n_classes, d)
    bias : ndarray of float64, (n_classes,)
        The softmax of ``X @ weight.T + bias`` is ``estimator.predict_proba(X)``.

    Source
    ------
    Initialising the classifier with the linear probe: Kumar et al. 2022, Fine-Tuning can Distort
    Pretrained Features and Underperform Out-of-Distribution, section 4 (LP-FT, arXiv:2202.10054).

    Examples
    --------
    >>> from featx.heads import find_head
    >>> X, y = np.array([[0.0, 1.0], [1.0, 3.0], [2.0, 2.0]]), ["a", "b", "a"]
    >>> head = find_head("logreg").build().fit(X, y)
    >>> weight, bias = fold_head(head)
    >>> scores = np.exp(X @ weight.T + bias)
    >>> np.allclose(scores / scores.sum(axis=1, keepdims=True), head.predict_proba(X))
    True
    """
    scaler, classifier = estimator["scaler"], estimator["classifier"]
    weight = np.asarray(classifier.coef_, np.float64) / scaler.scale_
    bias = np.asarray(classifier.intercept_, np.float64) - weight @ scaler.mean_
    if len(weight) == 1:
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return weight, bias
