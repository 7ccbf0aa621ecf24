"""The backbone as a scikit-learn transformer: images in, embeddings out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from featx.embedding import choose_preprocess, embed, parse_layer
from featx.errors import FeatxError, ImageError
from featx.images.decoding import choose_policy
from featx.images.items import ImageLike, ItemsSource
from featx.images.sources import list_images
from featx.records import Precision, Preprocess, Resize, escape_name

if TYPE_CHECKING:
    from featx.backbones.network import Network


class FeatureExtractor(TransformerMixin, BaseEstimator):  # type: ignore[misc] # scikit-learn has no types
    """Turn images into embeddings, as a step of a scikit-learn pipeline.

    Parameters
    ----------
    backbone : str, default="resnet50"
    weights : {"default", "none"} or path
    layers : sequence of str, or str
        ``NODE`` or ``NODE:POOL``; several are joined side by side. Empty for the penultimate one.
    preprocess, resize, image_size, precision, device, batch_size, workers, fast_decode, seed
        As for :func:`featx.extract`.

    Attributes
    ----------
    n_features_out_ : int
        Width of the embeddings.

    Examples
    --------
    >>> import numpy as np, featx
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> images = list(np.random.default_rng(0).integers(0, 255, (6, 20, 20, 3), dtype=np.uint8))
    >>> pipeline = make_pipeline(featx.FeatureExtractor("pixels"), LogisticRegression())
    >>> pipeline.fit(images, [0, 1] * 3).predict(images[:2])
    array([0, 1])
    """

    def __init__(
        self,
        backbone: str = "resnet50",
        *,
        weights: str | os.PathLike[str] = "default",
        layers: str | Sequence[str] = (),
        preprocess: str | Preprocess | None = None,
        resize: Resize | None = None,
        image_size: int | None = None,
        precision: Precision | Literal["auto"] = "auto",
        device: str = "auto",
        batch_size: int | Literal["auto"] = "auto",
        workers: int | Literal["auto"] = "auto",
        fast_decode: bool = False,
        seed: int = 0,
    ) -> None:
        self.backbone = backbone
        self.weights = weights
        self.layers = layers
        self.preprocess = preprocess
        self.resize = resize
        self.image_size = image_size
        self.precision = precision
        self.device = device
        self.batch_size = batch_size
        self.workers = workers
        self.fast_decode = fast_decode
        self.seed = seed

    def fit(self, X: Sequence[ImageLike], y: object = None) -> FeatureExtractor:  # noqa: ARG002 - scikit-learn's
        """Build the network; nothing is learned from ``X``.

        Raises
        ------
        BackboneError, WeightsError, UnknownNameError
        """
        self.n_features_out_ = sum(layer.dim for layer in self._load().layers)
        self._fitted_with = self._settings()
        return self

    def transform(self, X: Sequence[ImageLike]) -> NDArray[np.float32]:
        """Embed images.

        Parameters
        ----------
        X : sequence of path, ndarray or PIL.Image.Image, n

        Returns
        -------
        ndarray of float32, (n, n_features_out_)

        Raises
        ------
        ImageError
            If an image cannot be used.
        FeatxError
            If there are no images, or parameters that change the embeddings were set after ``fit``.
        """
        self._check_fitted()
        if len(X) == 0:
            raise FeatxError("No images were given; expected at least one path, array or PIL image.")
        network = self._load()
        source = ItemsSource(X)
        records = list_images(source)
        result = np.empty((len(records), self.n_features_out_), dtype=np.float32)
        for batch in embed(
            network,
            source,
            records,
            batch_size=self.batch_size,
            workers=self.workers,
            decoding=choose_policy(self.fast_decode),
        ):
            for item in batch.others:
                raise ImageError(f"{escape_name(records[item.index].name)}: {item.reason}")
            result[batch.indices] = np.hstack([batch.features[layer.name] for layer in network.layers])
        return result

    def get_feature_names_out(self, input_features: object = None) -> NDArray[np.object_]:  # noqa: ARG002
        """Name the columns ``NODE:POOL_0``, ``NODE:POOL_1``, ….

        Returns
        -------
        ndarray of str, (n_features_out_,)

        Raises
        ------
        FeatxError
            If parameters that change the embeddings were set after ``fit``.
        """
        self._check_fitted()
        names = [f"{layer.name}_{i}" for layer in self._load().layers for i in range(layer.dim)]
        return np.array(names, dtype=object)

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "n_features_out_")

    def __getstate__(self) -> dict[str, Any]:
        # The network is built again where it is needed: a pickle need not carry the weights.
        return {name: value for name, value in super().__getstate__().items() if name != "_network"}

    def _settings(self) -> dict[str, Any]:
        """Parameters that the network is built with."""
        names = (self.layers,) if isinstance(self.layers, str) else tuple(self.layers)
        own = {
            name: value for name, value in self.get_params().items() if name not in ("batch_size", "workers")
        }
        return own | {"layers": names}

    def _check_fitted(self) -> None:
        check_is_fitted(self)
        then, now = self._fitted_with, self._settings()
        # The device may change: what was fitted on a GPU may go on without one.
        changed = [
            f"{name}: {then[name]!r} then, {now[name]!r} now"
            for name in now
            if name != "device" and now[name] != then[name]
        ]
        if changed:
            raise FeatxError(f"The parameters changed since fit ({'; '.join(changed)}); fit again.")

    def _load(self) -> Network:
        settings = self._settings()
        cached: tuple[dict[str, Any], Network] | None = getattr(self, "_network", None)
        if cached is not None and cached[0] == settings:
            return cached[1]
        from featx.backbones import load_network

        network = load_network(
            self.backbone,
            weights=self.weights,
            layers=[parse_layer(layer) for layer in settings["layers"]],
            precision=self.precision,
            device=self.device,
            seed=self.seed,
            preprocess=choose_preprocess(
                self.backbone, self.weights, self.preprocess, self.resize, self.image_size
            ),
            compile="auto",
        )
        self._network = (settings, network)
        return network
