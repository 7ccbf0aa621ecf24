import subprocess
import sys

import pytest

from featx.backbones.catalog import find_backbone, list_backbones, register_provider
from featx.errors import BackboneError, UnknownNameError


def test_all_torchvision_classifiers_are_listed():
    from torchvision import models

    names = list_backbones()
    assert set(models.list_models(module=models)) | {"featx-tiny", "pixels"} == set(names)
    assert names == sorted(names)


def test_an_unknown_name_lists_near_ones():
    with pytest.raises(UnknownNameError, match=r"Unknown backbone 'resnet5O'. Did you mean 'resnet50'"):
        find_backbone("resnet5O")


def test_a_provider_name_is_given_once():
    find_backbone("pixels")
    with pytest.raises(ValueError, match="'pixels' is registered already"):
        register_provider("pixels")(object)


def test_embedded_names_import_no_torch():
    code = (
        "import sys, featx.backbones.weights, featx.backbones.pooling\n"
        "from featx.backbones.catalog import find_backbone\n"
        "assert find_backbone('featx-tiny').input_size == 64\n"
        "assert find_backbone('pixels').input_size == 32\n"
        "assert not {'torch', 'torchvision'} & set(sys.modules), sorted(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("name", "sizes", "default_sizes", "mean"),
    [
        ("resnet50", (256, 224), (232, 224), (0.485, 0.456, 0.406)),
        ("inception_v3", (342, 299), (342, 299), (0.485, 0.456, 0.406)),
        ("efficientnet_v2_l", (480, 480), (480, 480), (0.5, 0.5, 0.5)),
        ("vit_h_14", (518, 518), (518, 518), (0.485, 0.456, 0.406)),
    ],
)
def test_preprocessing_is_the_weights_own_record(name, sizes, default_sizes, mean):
    from torchvision import models

    backbone = find_backbone(name)
    assert (backbone.preprocess.resize_size, backbone.preprocess.image_size) == sizes
    assert (backbone.default_preprocess.resize_size, backbone.default_preprocess.image_size) == default_sizes
    assert backbone.preprocess.mean == mean
    transform = models.get_model_weights(name)["DEFAULT"].transforms()
    assert backbone.default_preprocess.interpolation == transform.interpolation.value
    assert backbone.default_preprocess.std == tuple(transform.std)


def test_a_custom_name_must_have_a_module_and_a_function():
    with pytest.raises(BackboneError, match=r"expected 'custom:package.module:function'"):
        find_backbone("custom:networks")
