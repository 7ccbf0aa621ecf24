import pytest
import torch
from training_models import recipe, tiny_classifier

from featx.training.recipe import build_optimizer, rates_by_block


def rate_of(optimizer, parameter):
    return next(
        (group["highest"], group["weight_decay"])
        for group in optimizer.param_groups
        if any(one is parameter for one in group["params"])
    )


@pytest.mark.parametrize(("name", "kind"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_what_is_trained_and_nothing_else(name, kind):
    model = tiny_classifier(unfreeze="layer4")
    optimizer = build_optimizer(model, recipe(optimizer=name))
    assert type(optimizer) is kind
    given = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert given == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    if name == "sgd":
        assert all(group["nesterov"] and group["momentum"] == 0.9 for group in optimizer.param_groups)


def test_only_kernels_decay():
    model = tiny_classifier()
    optimizer = build_optimizer(model, recipe())
    assert rate_of(optimizer, model.linears[0].weight)[1] == 0.01
    assert rate_of(optimizer, model.linears[0].bias)[1] == 0


def test_earlier_blocks_learn_more_slowly():
    model = tiny_classifier()
    optimizer = build_optimizer(model, recipe(lr=1.0, layer_decay=0.5))
    named = dict(model.network.named_parameters())
    rates = {name.split(".")[1]: rate_of(optimizer, value)[0] for name, value in named.items()}
    blocks = ["layer1", "layer2", "layer3", "layer4"]
    assert [rates[block] for block in blocks] == [0.125, 0.25, 0.5, 1.0]
    assert rate_of(optimizer, model.linears[0].weight)[0] == 1.0


def test_blocks_of_numbered_features():
    names = [f"features.{n}.conv" for n in range(5)]
    assert list(rates_by_block(names, 0.5).values()) == [1 / 16, 1 / 8, 1 / 4, 1 / 2, 1]
    assert rates_by_block(["a.b", "a.c"], 0.5) == {"a.b": 0.5, "a.c": 1.0}
