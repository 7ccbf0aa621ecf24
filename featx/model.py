"""The winner as one file: what the backbone was, the head, and a card that says what it is good for.

Reading the manifest is all that :meth:`Model.load` does; skops and torch come with the first
prediction.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from featx.embedding import parse_layer, space_of
from featx.errors import FeatxError, ImageError, ModelFileError, UnknownNameError, WeightsError
from featx.images.decoding import check_policy
from featx.images.sources import SourceLike, list_images, open_source
from featx.modelfile import read_head, read_manifest, replay, unpacked_network
from featx.prediction import Judged, judge_in_order, name_classes
from featx.records import Layer, Prediction, Preprocess, ProgressCallback, Space, escape_name, layer_from_json
from featx.store.rounding import MOST_LOST, share_lost

if TYPE_CHECKING:
    from featx.backbones.network import Network


class Model:
    """A trained classifier of images, read from a ``model.featx``.

    Parameters
    ----------
    path : path
        The file; use :meth:`load`.
    weights : path, optional
        The backbone's weights file, if it no longer lies where it was. That of a fine-tuned network is
        in the model file.

    Attributes
    ----------
    classes_ : ndarray of str, (n_classes,)
    card : dict
        What it was trained on and how well it did, with intervals.
    space : Space
        How images become embeddings.
    layer : LayerInfo or JoinedLayer

    Examples
    --------
    >>> import featx
    >>> featx.Model.load("no-such.featx")
    Traceback (most recent call last):
    featx.errors.ModelFileError: no-such.featx does not exist; `featx fit` writes one into its run folder
    """

    def __init__(
        self, path: str | os.PathLike[str], *, weights: str | os.PathLike[str] | None = None
    ) -> None:
        self.path = Path(path)
        manifest = read_manifest(self.path)
        try:
            self.classes_: NDArray[np.str_] = np.array(list(manifest["classes"]), dtype=np.str_)
            self.card: dict[str, Any] = dict(manifest["card"])
            self.space = Space.from_json(manifest["space"])
            self.layer: Layer = layer_from_json(manifest["layer"])
            self._imported = self.space.provider == "import"
            self._dtype = np.dtype(self.space.store_dtype)
            self._preprocess = None if self._imported else Preprocess.from_json(self.space.preprocess)
            self._trained_with = str(manifest["weights"]["spec"])
            self._weights = os.fspath(weights) if weights is not None else self._trained_with
            self._embedded = weights is None and bool(manifest["weights"].get("embedded"))
            self._seed = int(self.space.weights.get("seed", 0))
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise ModelFileError(
                f"{self.path} is damaged, or of another featx: its manifest does not describe a model "
                f"({type(error).__name__}: {error}); make it again with `featx fit`"
            ) from error
        self._networks: dict[str, Network] = {}

    def __getstate__(self) -> dict[str, Any]:
        # The network is built again where it is needed: a pickle need not carry the weights.
        return self.__dict__ | {"_networks": {}}

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, weights: str | os.PathLike[str] | None = None) -> Model:
        """Open a model file; only its manifest is read now.

        Parameters
        ----------
        path : path
            A ``model.featx``, or a run folder that holds one.
        weights : path, optional
            The backbone's weights file, if it no longer lies where it was.

        Raises
        ------
        ModelFileError
            If it does not exist, is damaged, or of another format.
        """
        given = Path(path)
        return cls(given / "model.featx" if given.is_dir() else given, weights=weights)

    def predict(self, images: SourceLike) -> NDArray[np.str_]:
        """Predict the class of each image.

        Parameters
        ----------
        images : path, sequence or ndarray
            Any source: a folder, or a list of paths, arrays and PIL images.

        Returns
        -------
        ndarray of str, (n,)

        Raises
        ------
        ImageError
            If an image cannot be used; :meth:`stream` goes on instead.
        ModelFileError
            If the model was fitted on embeddings made elsewhere: there is nothing to embed images with.
        """
        return np.asarray(self.classes_[self.predict_proba(images).argmax(axis=1)])

    def predict_proba(self, images: SourceLike) -> NDArray[np.float64]:
        """Predict the probability of each class.

        Returns
        -------
        ndarray of float, (n, n_classes)
            In the order of ``classes_``.

        Raises
        ------
        ImageError
            If an image cannot be used.
        ModelFileError
            As for :meth:`predict`.
        """
        rows = []
        for name, probabilities, error in self._probabilities(images):
            if probabilities is None:
                raise ImageError(f"{escape_name(name)}: {error}")
            rows.append(probabilities)
        return np.stack(rows)

    def stream(
        self,
        source: SourceLike,
        *,
        top: int = 1,
        device: str = "auto",
        batch_size: int | Literal["auto"] = "auto",
        workers: int | Literal["auto"] = "auto",
        on_progress: ProgressCallback | None = None,
    ) -> Iterator[Prediction]:
        """Predict image by image in bounded memory, in the order of the source.

        Parameters
        ----------
        source : path, sequence or ndarray
        top : int, default=1
            How many classes to give, the most probable first.
        device, batch_size, workers
            As for :func:`featx.extract`.
        on_progress : callable, optional

        Returns
        -------
        iterator of Prediction
            An image that cannot be used has no labels and an ``error``.

        Raises
        ------
        SourceError, WeightsError, ModelFileError
            At once, not at the first step.
        """
        if top < 1:
            raise FeatxError(f"The top {top} classes were asked for; expected at least 1.")
        rows = self._probabilities(
            source, device=device, batch_size=batch_size, workers=workers, on_progress=on_progress
        )
        return (name_classes(*row, self.classes_.tolist(), top) for row in rows)

    def _probabilities(
        self,
        source: SourceLike,
        *,
        device: str = "auto",
        batch_size: int | Literal["auto"] = "auto",
        workers: int | Literal["auto"] = "auto",
        on_progress: ProgressCallback | None = None,
    ) -> Iterator[tuple[str, NDArray[np.float64] | None, str]]:
        if self._imported:
            raise ModelFileError(
                f"{self.path} was fitted on embeddings made elsewhere ({self.space.backbone}), so images "
                f"cannot be embedded here; give such embeddings, (n, {self.layer.dim}), to "
                "model.estimator_.predict_proba(X), whose columns are model.classes_"
            )
        opened = open_source(source)
        records = list_images(opened)
        network = self._network(device)
        head = self.estimator_
        return judge_in_order(
            network,
            opened,
            records,
            lambda features: self._judge(head, np.hstack([features[part.name] for part in self.layer.parts])),
            stage="predict",
            decoding=self.space.decoding,
            batch_size=batch_size,
            workers=workers,
            on_progress=on_progress,
        )

    def _judge(self, head: Any, rows: NDArray[np.float32]) -> list[Judged]:
        """Predict through the stored dtype, so that the head sees what it was trained on."""
        fits = share_lost(rows, self._dtype) <= MOST_LOST
        judged: list[Judged] = [
            (
                None,
                f"the embedding, which reaches {reach:.6g}, does not fit the model's {self._dtype.name}",
            )
            for reach in np.abs(rows).max(axis=1)
        ]
        if fits.any():
            probabilities = head.predict_proba(rows[fits].astype(self._dtype).astype(np.float32))
            for position, row in zip(np.flatnonzero(fits), probabilities, strict=True):
                judged[position] = (row, "")
        return judged

    @cached_property
    def estimator_(self) -> Any:
        """The head: a fitted scikit-learn estimator on embeddings (n, dim); its columns are ``classes_``.

        Raises
        ------
        ModelFileError
            If the file holds a type that is not allowed, or predicts otherwise than it did.
        """
        estimator = read_head(self.path)
        replay(self.path, estimator, self.card.get("versions"))
        return estimator

    def _network(self, device: str) -> Network:
        if device not in self._networks:
            self._networks[device] = self._load_network(device)
        return self._networks[device]

    def _load_network(self, device: str) -> Network:
        try:
            check_policy(self.space.decoding)
        except UnknownNameError as error:
            raise ModelFileError(f"{self.path} was fitted on images decoded otherwise: {error}") from error
        if self._embedded:
            with unpacked_network(self.path) as file:
                network = self._load(os.fspath(file), device)
        else:
            network = self._load(self._weights, device)
        differences = self.space.differences(space_of(network, self.space.store_dtype, self.space.decoding))
        if differences:
            shown = "; ".join(f"{name}: {then} then, {now} now" for name, (then, now) in differences.items())
            raise ModelFileError(
                f"{self.path} was trained on other embeddings than can be made here: {shown}"
            )
        return network

    def _load(self, weights: str, device: str) -> Network:
        from featx.backbones import load_network

        try:
            return load_network(
                self.space.backbone,
                weights=weights,
                layers=[parse_layer(part.name) for part in self.layer.parts],
                precision=self.space.precision,
                device=device,
                seed=self._seed,
                preprocess=self._preprocess,
                compile="auto",
            )
        except WeightsError as error:
            if self._embedded:
                raise ModelFileError(f"{self.path} holds a network that cannot be read ({error})") from error
            raise WeightsError(
                f"{error} (the model's {self.space.backbone} was extracted with {self._trained_with}; "
                "if the file has moved, give it with --weights FILE)"
            ) from error
