import numpy as np
import pytest
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn
from training_models import noise, tiny_classifier

from featx.heads import tune
from featx.training.classifier import fold_head, to_estimator
from featx.training.feeds import ImageFeed
from featx.training.loop import embed_rows, predict_proba

LABELS = np.array(["a", "b", "c"])


@pytest.mark.parametrize("n_classes", [2, 3])
class TestWarmStart:
    def test_step_0_predicts_as_the_head(self, n_classes):
        images, rows = noise(24), np.arange(24)
        model = tiny_classifier(n_classes)
        embeddings = embed_rows(model, images, rows, 8)
        head = tune("logreg", embeddings, LABELS[rows % n_classes], cv=3).best_estimator_
        model.set_layers(fold_head(head))
        np.testing.assert_allclose(
            predict_proba(model, ImageFeed(images), rows, 8), head.predict_proba(embeddings), atol=1e-5
        )

    def test_a_deeper_one_predicts_as_the_perceptron(self, n_classes):
        images, rows = noise(24), np.arange(24)
        model = tiny_classifier(n_classes, hidden=(16, 8), dropout=0.5)
        embeddings = embed_rows(model, images, rows, 8)
        head = make_pipeline(StandardScaler(), MLPClassifier((16, 8), max_iter=5, n_iter_no_change=50))
        head.steps = [("scaler", head[0]), ("classifier", head[1])]
        with pytest.warns(match="Maximum iterations"):
            head.fit(embeddings, LABELS[rows % n_classes])
        model.set_layers(fold_head(head))
        np.testing.assert_allclose(
            predict_proba(model, ImageFeed(images), rows, 8), head.predict_proba(embeddings), atol=1e-5
        )


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("hidden", [(), (16,), (16, 8)])
def test_leaves_as_an_estimator_that_predicts_the_same(n_classes, hidden):
    images, rows = noise(10), np.arange(10)
    model = tiny_classifier(n_classes, hidden=hidden)
    estimator = to_estimator(model.layers(), LABELS[:n_classes])
    embeddings = embed_rows(model, images, rows, 5)
    expected = predict_proba(model, ImageFeed(images), rows, 5)
    np.testing.assert_allclose(estimator.predict_proba(embeddings), expected, atol=1e-6)
    assert estimator.predict(embeddings).tolist() == LABELS[expected.argmax(axis=1)].tolist()


def test_dropout_comes_before_each_layer_but_the_first():
    kinds = [type(part) for part in tiny_classifier(hidden=(8, 8), dropout=0.3).classifier]
    deep = [nn.Linear, nn.ReLU, nn.Dropout]
    assert kinds == [*deep, *deep, nn.Linear]
    assert [type(part) for part in tiny_classifier(dropout=0.3).classifier] == [nn.Dropout, nn.Linear]


def test_the_network_rests_within_the_block_only():
    model = tiny_classifier(unfreeze="layer4")
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    with model.network_rests():
        model.train()
        assert model.classifier.training
        assert not model.network.training
        resting = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
        assert resting == {"classifier.0.weight", "classifier.0.bias"}
    assert {name for name, parameter in model.named_parameters() if parameter.requires_grad} == trained
    assert model.train().network.training


def test_counts_its_numbers():
    model = tiny_classifier(3, unfreeze="last:1")
    assert model.n_trained == 2 * 256 + 256 * 3 + 3  # the last BatchNorm, and the classifier
    assert model.n_parameters > 100 * model.n_trained
