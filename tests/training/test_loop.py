import os
import signal

import numpy as np
import pytest
import torch
from training_models import noise, recipe, tiny_classifier

from featx.errors import FeatxError, TrainingError
from featx.training.augmentation import Augmenter
from featx.training.checkpoint import Checkpoint
from featx.training.feeds import ImageFeed, make_feed
from featx.training.loop import predict_proba, train
from featx.training.search import choose_recipe


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def same_curve(first, second):
    strip = [[{**entry, "seconds": 0} for entry in curve] for curve in (first, second)]
    return strip[0] == strip[1]


def state_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_same(first, second):
    assert first.keys() == second.keys()
    for name in first:
        assert first[name].equal(second[name]), name


class TestTraining:
    @pytest.mark.parametrize("how", [{"optimizer": "adamw"}, {"optimizer": "sgd", "lr": 1e-2}])
    def test_overfits_twenty_images_of_noise(self, how):
        images, rows = noise(20), np.arange(20)
        codes = rows % 2
        model = tiny_classifier()
        curve = train(model, ImageFeed(images), rows, codes, recipe(14, batch_size=10, **how))
        assert (predict_proba(model, ImageFeed(images), rows, 20).argmax(axis=1) == codes).all()
        assert curve[-1]["accuracy"] == 1
        assert curve[-1]["loss"] < curve[0]["loss"]
        assert [entry["epoch"] for entry in curve] == [*range(1, 15)]

    @pytest.mark.parametrize("how", [{}, {"optimizer": "sgd"}])
    def test_the_frozen_part_stays_bit_for_bit(self, how):
        images, rows = noise(8), np.arange(8)
        model = tiny_classifier(unfreeze="last:2", train_batchnorm=True)
        before = state_of(model.network)
        train(model, ImageFeed(images), rows, rows % 2, recipe(2, 1e-2, **how))
        trained = ("_module.layer4.shortcut.0.", "_module.layer4.shortcut.1.")
        for name, value in model.network.state_dict().items():
            assert value.equal(before[name]) != name.startswith(trained), name

    def test_a_stopped_schedule_is_the_beginning_of_the_whole(self):
        images, rows = noise(8), np.arange(8)
        states = []
        for stop_after in (None, 2):
            model = tiny_classifier(dropout=0.2)

            def keep(entry, model=model):
                if entry["epoch"] == 2:
                    states.append(state_of(model))
                return False

            settings = recipe(3, augment="light", seed=5)
            feed = ImageFeed(images, Augmenter("light", model.network.preprocess, 5))
            train(model, feed, rows, rows % 2, settings, stop_after=stop_after, on_epoch=keep)
        assert_same(*states)

    def test_ends_when_told(self):
        rows = np.arange(4)
        curve = train(
            tiny_classifier(),
            ImageFeed(noise(4)),
            rows,
            rows % 2,
            recipe(5),
            on_epoch=lambda entry: entry["epoch"] == 2,
        )
        assert len(curve) == 2

    def test_leaves_the_generator_of_torch_as_it_was(self):
        torch.manual_seed(11)
        expected = torch.rand(3)
        torch.manual_seed(11)
        model = tiny_classifier(dropout=0.5)
        feed = ImageFeed(noise(4), Augmenter("strong", model.network.preprocess))
        train(model, feed, np.arange(4), np.arange(4) % 2, recipe(1, augment="strong"))
        assert torch.rand(3).equal(expected)

    def test_a_loss_that_is_no_number_stops_with_the_last_good_weights(self):
        rows, model = np.arange(8), tiny_classifier()
        seen = []

        class Spoiled(ImageFeed):
            def scores(self, model, rows, epoch):
                return super().scores(model, rows, epoch) * (float("nan") if epoch == 1 else 1.0)

        def keep(entry):
            seen.append(state_of(model))
            return False

        with pytest.raises(TrainingError, match=r"nan in epoch 2 at a learning rate of 0\.001; choose"):
            train(model, Spoiled(noise(8)), rows, rows % 2, recipe(3), on_epoch=keep)
        assert len(seen) == 1
        assert_same(state_of(model), seen[0])

    def test_balanced_gives_each_class_the_same_weight(self):
        """With one rare image, a step on all of them moves both biases as if there were as many."""
        model, rows = tiny_classifier(), np.arange(8)
        codes = (rows == 0).astype(np.intp)
        with torch.no_grad():
            model.linears[0].weight.zero_()
            model.linears[0].bias.zero_()
        settings = recipe(1, 1e-3, 8, optimizer="sgd")
        with model.network_rests():
            train(model, ImageFeed(noise(8)), rows, codes, settings)
            pushed = model.linears[0].bias.detach().clone()
            with torch.no_grad():
                model.linears[0].weight.zero_()
                model.linears[0].bias.zero_()
            train(model, ImageFeed(noise(8)), rows, codes, recipe(1, 1e-3, 8, optimizer="sgd", balanced=True))
        assert pushed[0] > 3e-4
        assert model.linears[0].bias.abs().max() < 1e-8

    def test_label_smoothing_reaches_the_loss(self):
        rows, images = np.arange(8), noise(8)
        losses = []
        for smoothing in (0.0, 0.5):
            model = tiny_classifier()
            with torch.no_grad():
                model.linears[0].bias.copy_(torch.tensor([20.0, -20.0]))
                model.linears[0].weight.zero_()
            curve = train(
                model, ImageFeed(images), rows, rows * 0, recipe(1, 1e-9, 8, label_smoothing=smoothing)
            )
            losses.append(curve[0]["loss"])
        assert losses[0] < 1e-6
        assert losses[1] == pytest.approx(10, abs=1e-3)


class TestSearch:
    def test_a_rate_that_diverges_is_left_out(self):
        rows, images = np.arange(8), noise(8)
        part = (rows, rows % 2)
        trial = choose_recipe(tiny_classifier(), ImageFeed(images), part, part, recipe(2), (1e-3, 1e30))
        assert trial.recipe.lr == 1e-3
        assert "1 of 2 learning rates diverged" in trial.warnings
        with pytest.raises(TrainingError, match="choose a smaller"):
            choose_recipe(tiny_classifier(), ImageFeed(images), part, part, recipe(2), (1e30,))

    def test_the_best_epoch_of_the_best_rate_is_chosen(self):
        images, rows = noise(12), np.arange(12)
        part = (rows, rows % 2)
        seen = []
        trial = choose_recipe(
            tiny_classifier(),
            ImageFeed(images),
            part,
            part,
            recipe(8, 0.0, 6),
            (1e-6, 1e-3),
            on_progress=seen.append,
        )
        assert trial.recipe.lr == 1e-3
        assert trial.accuracy == 1.0
        curve = trial.curves["try rate 0.001"]
        merits = [(-entry["tuning_accuracy"], entry["tuning_loss"]) for entry in curve]
        assert merits.index(min(merits)) == trial.epochs - 1
        assert trial.loss == curve[trial.epochs - 1]["tuning_loss"]
        right = trial.probabilities[np.arange(12), rows % 2]
        assert -np.log(right).mean() == pytest.approx(trial.loss)
        assert {step.stage for step in seen} == {"try rate 1e-06", "try rate 0.001"}

    def test_patience(self):
        """Labels of the tuning images that contradict: it only gets worse."""
        images, rows = noise(12), np.arange(12)
        trial = choose_recipe(
            tiny_classifier(),
            ImageFeed(images),
            (rows, rows % 2),
            (rows, 1 - rows % 2),
            recipe(30, 1e-3, 6, patience=3),
            (1e-3,),
        )
        curve = trial.curves["try rate 0.001"]
        assert len(curve) == trial.epochs + 3 < 30


class Stop(Exception):
    """In place of what the command line raises for a signal."""


IDENTITY = {"seed": 0}


class TestInterrupted:
    @pytest.fixture
    def terminated(self):
        def stop(number, frame):
            raise Stop

        before = signal.signal(signal.SIGTERM, stop)
        yield
        signal.signal(signal.SIGTERM, before)

    def whole(self, **how):
        model, rows = tiny_classifier(dropout=0.2, **how), np.arange(10)
        curve = train(model, self.feed(model), rows, rows % 2, recipe(4, augment="light"))
        return curve, state_of(model)

    def feed(self, model):
        return ImageFeed(noise(10), Augmenter("light", model.network.preprocess))

    # Three steps an epoch: amid the first, at its end, amid the third.
    @pytest.mark.parametrize("at", [1, 3, 8])
    @pytest.mark.parametrize("how", [{}, {"unfreeze": "layer4", "train_batchnorm": True}])
    def test_a_signal_saves_and_resuming_gives_the_same_curve(self, at, how, tmp_path, terminated):
        steps = []

        def interrupt(seen, curve):
            steps.append(seen)
            if len(steps) == at:
                os.kill(os.getpid(), signal.SIGTERM)

        model, rows = tiny_classifier(dropout=0.2, **how), np.arange(10)
        settings = recipe(4, augment="light")
        with pytest.raises(Stop):
            train(
                model,
                self.feed(model),
                rows,
                rows % 2,
                settings,
                on_step=interrupt,
                checkpoint=Checkpoint(tmp_path, IDENTITY),
            )
        assert len(steps) == at

        model = tiny_classifier(dropout=0.2, **how)
        more = []
        curve = train(
            model,
            self.feed(model),
            rows,
            rows % 2,
            settings,
            on_step=lambda seen, _: more.append(seen),
            checkpoint=Checkpoint(tmp_path, IDENTITY),
        )
        expected, state = self.whole(**how)
        assert same_curve(curve, expected)
        assert_same(state_of(model), state)
        assert len(more) == 12 - at

    def test_a_kill_costs_less_than_an_epoch(self, tmp_path):
        """Nothing is held or saved at an exception that is no signal."""

        def die(seen, curve):
            if seen > 24:
                raise Stop

        model, rows = tiny_classifier(), np.arange(10)
        with pytest.raises(Stop):
            train(
                model,
                self.feed(model),
                rows,
                rows % 2,
                recipe(4, augment="light"),
                on_step=die,
                checkpoint=Checkpoint(tmp_path, IDENTITY),
            )
        state, _ = Checkpoint(tmp_path, IDENTITY).running("training")
        assert (state["epoch"], state["batch"]) == (2, 0)

    def test_the_search_goes_on_where_it_was(self, tmp_path, terminated):
        images, rows = noise(12), np.arange(12)
        part = (rows, rows % 2)

        def search(on_progress=None, checkpoint=None):
            return choose_recipe(
                tiny_classifier(),
                ImageFeed(images),
                part,
                part,
                recipe(3, batch_size=6),
                (1e-5, 1e-4, 1e-3),
                on_progress=on_progress,
                checkpoint=checkpoint,
            )

        def interrupt(step):
            if step.stage == "try rate 0.0001" and step.done == 30:
                os.kill(os.getpid(), signal.SIGTERM)

        with pytest.raises(Stop):
            search(interrupt, Checkpoint(tmp_path, IDENTITY))
        seen = []
        trial = search(seen.append, Checkpoint(tmp_path, IDENTITY))
        assert [step.stage for step in seen if step.done == 0] == ["try rate 0.0001", "try rate 0.001"]
        # Of the second rate one step was left.
        assert [s.done for s in seen if s.stage == "try rate 0.0001"] == [0, 36, 36]
        whole = search()
        assert (trial.recipe, trial.epochs, trial.loss) == (whole.recipe, whole.epochs, whole.loss)
        np.testing.assert_array_equal(trial.probabilities, whole.probabilities)
        assert trial.curves.keys() == whole.curves.keys()
        assert all(same_curve(trial.curves[run], whole.curves[run]) for run in whole.curves)


def test_a_batch_that_does_not_fit(monkeypatch):
    class Full(ImageFeed):
        def scores(self, model, rows, epoch):
            raise torch.OutOfMemoryError("no room")

    rows = np.arange(4)
    with pytest.raises(FeatxError, match="A batch of 4 images does not fit into the memory of cpu"):
        train(tiny_classifier(), Full(noise(4)), rows, rows % 2, recipe())


@pytest.mark.parametrize("unfreeze", ["layer4", "last:3", "all"])
def test_the_trunk_is_computed_once_and_nothing_changes(unfreeze):
    images, rows = noise(9), np.arange(9)
    results = []
    for cached in (False, True):
        model = tiny_classifier(unfreeze=unfreeze)
        calls = []
        original = model.network.trunk
        object.__setattr__(model.network, "trunk", lambda x, f=original, c=calls: c.append(len(x)) or f(x))
        none = Augmenter("none", model.network.preprocess)
        feed = make_feed(model, images, none, 4) if cached else ImageFeed(images)
        curve = train(model, feed, rows, rows % 2, recipe(3))
        results.append((curve, state_of(model), predict_proba(model, feed, rows, 4)))
        if cached and unfreeze != "all":
            assert calls == [2, 3, 4, 4, 1]
    assert [entry["loss"] for entry in results[0][0]] == pytest.approx(
        [entry["loss"] for entry in results[1][0]], rel=1e-4
    )
    np.testing.assert_allclose(results[0][2], results[1][2], rtol=1e-3)


def test_augmented_images_pass_the_trunk_each_time():
    model = tiny_classifier(unfreeze="layer4")
    light = Augmenter("light", model.network.preprocess)
    assert isinstance(make_feed(model, noise(4), light, 4), ImageFeed)
