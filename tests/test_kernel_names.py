"""Compiled kernels that nobody explained: what their names and shapes leave open stays open."""

import pytest

from loraprof.analysis.attribution.kernel_names import role_of_kernel, role_of_product
from loraprof.model.recording import AdapterSite
from loraprof.model.trace import Shapes


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("triton_per_fused_native_layer_norm_3", "norm"),
        ("triton_poi_fused__to_copy_add_mul_silu_silu_backward_12", "activation"),
        ("graph_0_cpp_fused__log_softmax_nll_loss_forward_7", "loss"),
        ("triton_red_fused__softmax_add_div_0", "attention"),
        ("cpp_fused_embedding_native_layer_norm_0", "other"),  # two parts of a model
        ("triton_poi_fused_add_mul_3", "other"),  # a residual, or an adapter's sum
        ("cpp_fused_0", "other"),
        ("aten::native_layer_norm", "other"),  # no fused kernel
    ],
)
def test_names(name: str, role: str) -> None:
    assert role_of_kernel(name) == role


SITE = AdapterSite(path="x", kind="lora", rank=4, in_features=32, out_features=48, dtype="float32",
                   base_dtype="float32")  # fmt: skip
T = 100


def product(m: int, n: int, k: int, *sites: AdapterSite, backward: bool = False) -> str:
    shapes = Shapes(dims=((m, k), (k, n)), types=("float", "float"))
    return role_of_product("aten::mm", shapes, sites or (SITE,), backward)


def test_products_of_the_forward_pass() -> None:
    assert product(T, 4, 32) == "adapter.down"
    assert product(T, 48, 4) == "adapter.up"
    assert product(T, 48, 32) == "base.linear"
    assert product(T, 7, 32) == "other"


def test_products_of_the_backward_pass() -> None:
    assert product(T, 32, 4, backward=True) == product(4, 32, T, backward=True) == "adapter.down"
    assert product(T, 4, 48, backward=True) == product(48, 4, T, backward=True) == "adapter.up"
    assert product(T, 32, 48, backward=True) == "base.linear"


def test_shapes_that_fit_two_parts_are_left_open() -> None:
    square = AdapterSite(path="y", kind="lora", rank=48, in_features=32, out_features=64, dtype="float32",
                         base_dtype="float32")  # fmt: skip
    assert product(T, 48, 32, SITE, square) == "other"  # SITE's base, or the other's A
    wide = AdapterSite(path="z", kind="lora", rank=32, in_features=32, out_features=64, dtype="float32",
                       base_dtype="float32")  # fmt: skip
    assert product(T, 32, 32, wide) == "other"  # a rank as wide as the layer tells nothing
    assert role_of_product("aten::mm", None, (SITE,), False) == "other"
