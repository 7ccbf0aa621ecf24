"""A network with a classifier on top, which may start as a fitted head and may leave as one."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import LabelBinarizer
from torch import Tensor, nn

from featx.backbones.trainable import TrainableNetwork

__all__ = ["Classifier", "Layers", "fold_head", "to_estimator"]

Layers = list[tuple[NDArray[np.float64], NDArray[np.float64]]]
"""Weight (out, in) and bias (out,) of each linear layer, ReLU between them."""


class Classifier(nn.Module):
    """Images to scores before the softmax.

    Parameters
    ----------
    network : TrainableNetwork
    n_classes : int
    seed : int
        Of the random start of the linear layers.
    hidden : sequence of int, default=()
        Widths of hidden layers, with ReLU after each.
    dropout : float, default=0
        Share of the inputs of each linear layer but the first that is left out in training; of the only
        one, where there are no hidden layers.
    """

    def __init__(
        self,
        network: TrainableNetwork,
        n_classes: int,
        seed: int,
        hidden: Sequence[int] = (),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.network = network
        widths = [network.layer.dim, *hidden, n_classes]
        parts: list[nn.Module] = [nn.Dropout(dropout)] if dropout and not hidden else []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            for number, (before, after) in enumerate(itertools.pairwise(widths)):
                if number:
                    parts += [nn.ReLU(), *([nn.Dropout(dropout)] if dropout else [])]
                parts.append(nn.Linear(before, after))
        self.classifier = nn.Sequential(*parts).to(network.device)
        self._network_rests = False
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Score images (n, 3, H, W), uint8, as (n, n_classes), float32."""
        return self.classifier(self.network(images))  # type: ignore[no-any-return]

    def train(self, mode: bool = True) -> Classifier:
        """Set the mode; within :meth:`network_rests` that of the classifier on top only."""
        super().train(mode)
        if self._network_rests:
            self.network.eval()
        return self

    @contextmanager
    def network_rests(self) -> Iterator[None]:
        """Train nothing but the classifier on top within the block."""
        trained = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        self._network_rests = True
        for parameter in trained:
            parameter.requires_grad = False
        try:
            yield
        finally:
            self._network_rests = False
            for parameter in trained:
                parameter.requires_grad = True

    @property
    def linears(self) -> list[nn.Linear]:
        """The linear layers of the classifier, in order."""
        return [part for part in self.classifier if isinstance(part, nn.Linear)]

    @torch.no_grad()
    def set_layers(self, layers: Layers) -> None:
        """Set the classifier to what :func:`fold_head` gives."""
        for linear, (weight, bias) in zip(self.linears, layers, strict=True):
            linear.weight.copy_(torch.from_numpy(weight))
            linear.bias.copy_(torch.from_numpy(bias))

    def layers(self) -> Layers:
        """Give the classifier as :meth:`set_layers` takes it."""
        return [(_to_numpy(linear.weight), _to_numpy(linear.bias)) for linear in self.linears]

    @property
    def n_trained(self) -> int:
        """How many numbers are trained."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)

    @property
    def n_parameters(self) -> int:
        """How many numbers network and classifier have, trained or not."""
        return sum(parameter.numel() for parameter in self.parameters())


def fold_head(estimator: Any) -> Layers:
    """Write standardisation and logistic regression, or a perceptron with ReLU, as linear layers.

    With the scaler's mean m and deviation s, w·((x − m) / s) + b = (w / s)·x + (b − w·(m / s)). Of two
    classes scikit-learn keeps the difference of the scores only; half of it with either sign gives the
    same probabilities, since softmax(−z/2, z/2) = (1 − σ(z), σ(z)).

    Parameters
    ----------
    estimator : Pipeline
        Fitted: ``scaler``, then ``classifier``, a LogisticRegression or an MLPClassifier.

    Returns
    -------
    list of (weight, bias)
        The softmax of what they give is ``estimator.predict_proba(X)``.

    Source
    ------
    Initialising the classifier with the linear probe: Kumar et al. 2022, Fine-Tuning can Distort
    Pretrained Features and Underperform Out-of-Distribution, section 4 (LP-FT, arXiv:2202.10054).

    Examples
    --------
    >>> from featx.heads import find_head
    >>> X, y = np.array([[0.0, 1.0], [1.0, 3.0], [2.0, 2.0]]), ["a", "b", "a"]
    >>> head = find_head("logreg").build().fit(X, y)
    >>> ((weight, bias),) = fold_head(head)
    >>> scores = np.exp(X @ weight.T + bias)
    >>> np.allclose(scores / scores.sum(axis=1, keepdims=True), head.predict_proba(X))
    True
    """
    scaler, classifier = estimator["scaler"], estimator["classifier"]
    if isinstance(classifier, MLPClassifier):
        pairs = zip(classifier.coefs_, classifier.intercepts_, strict=True)
        layers = [(np.asarray(w.T, np.float64), np.asarray(b, np.float64)) for w, b in pairs]
    else:
        layers = [(np.asarray(classifier.coef_, np.float64), np.asarray(classifier.intercept_, np.float64))]
    weight, bias = layers[0]
    weight = weight / scaler.scale_
    layers[0] = (weight, bias - weight @ scaler.mean_)
    weight, bias = layers[-1]
    if len(weight) == 1:
        layers[-1] = (np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2)
    return layers


def to_estimator(layers: Layers, classes: NDArray[np.str_]) -> Any:
    """Write linear layers as a fitted estimator of scikit-learn.

    Parameters
    ----------
    layers : list of (weight, bias)
        One for each class at the end.
    classes : ndarray of str, (n_classes,)
        Sorted.

    Returns
    -------
    LogisticRegression or MLPClassifier
        Its ``predict_proba`` is the softmax of what the layers give, in float64.

    Examples
    --------
    >>> layers = [(np.eye(2), np.zeros(2))]
    >>> to_estimator(layers, np.array(["a", "b"])).predict([[1.0, 0.0], [0.0, 1.0]]).tolist()
    ['a', 'b']
    """
    *hidden, (weight, bias) = layers
    if len(classes) == 2:  # scikit-learn keeps the difference
        weight, bias = weight[1:] - weight[:1], bias[1:] - bias[:1]
    n_inputs = layers[0][0].shape[1]
    if not hidden:
        linear = LogisticRegression()
        linear.coef_, linear.intercept_ = weight, bias
        linear.classes_, linear.n_features_in_ = classes, n_inputs
        return linear
    deep = MLPClassifier(tuple(len(b) for _, b in hidden), activation="relu")
    deep.coefs_ = [w.T.copy() for w, _ in (*hidden, (weight, bias))]
    deep.intercepts_ = [b for _, b in (*hidden, (weight, bias))]
    deep.classes_, deep.n_features_in_ = classes, n_inputs
    deep.n_layers_, deep.n_outputs_ = len(layers) + 1, len(bias)
    deep.out_activation_ = "logistic" if len(classes) == 2 else "softmax"
    deep._label_binarizer = LabelBinarizer().fit(classes)
    return deep


def _to_numpy(tensor: Tensor) -> NDArray[np.float64]:
    return np.asarray(tensor.detach().cpu().numpy(), np.float64)
