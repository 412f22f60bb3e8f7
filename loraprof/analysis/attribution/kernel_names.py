"""What is a kernel of a compiled region when nobody said what it is made of? Only what its name or shapes leave open.

Inductor puts the names of the fused ops into a kernel's name, without the modules: "add" may be a residual or an
adapter's sum. A product is the adapter's where one of its sides is the rank of an adapted layer and the others fit it.
"""

import re
from collections.abc import Sequence

from loraprof.analysis.work import gemm_dims
from loraprof.model.recording import AdapterSite
from loraprof.model.trace import Shapes
from loraprof.model.vocabulary import Role

_FUSED = re.compile(r"(?:triton_[a-z]+|cpp)_fused_(.+?)(?:_\d+)?$")

# Ops that only one part of a model uses; longer names first, for each is taken out once it is found.
_TELLING: tuple[tuple[str, Role], ...] = (
    ("_scaled_dot_product", "attention"),
    ("_log_softmax", "loss"),
    ("nll_loss", "loss"),
    ("cross_entropy", "loss"),
    ("_softmax", "attention"),
    ("native_layer_norm", "norm"),
    ("native_group_norm", "norm"),
    ("native_batch_norm", "norm"),
    ("rms_norm", "norm"),
    ("embedding", "embedding"),
    ("gelu", "activation"),
    ("silu", "activation"),
    ("relu", "activation"),
    ("native_dropout", "dropout"),
)


def role_of_kernel(name: str) -> Role:
    """The one role that the ops in a fused kernel's name can have, "other" where there is none or more than one."""
    found = _FUSED.search(name)
    if found is None:
        return "other"
    rest = found[1]
    roles: set[Role] = set()
    for word, role in _TELLING:
        if word in rest:
            roles.add(role)
            rest = rest.replace(word, "")
    return roles.pop() if len(roles) == 1 else "other"


def role_of_product(op: str, shapes: Shapes | None, sites: Sequence[AdapterSite], backward: bool) -> Role:
    """ "base.linear", "adapter.down", "adapter.up", or "other" where the shapes fit none or more than one.

    Forward, T tokens: x A' is (T, r, in), h B' (T, out, r). Backward as (m, n, k): B's input gradient (T, r, out), its
    weight gradient (out, r, T); A's (T, in, r) and (r, in, T).
    """
    dims = gemm_dims(op, shapes) if shapes is not None else None
    if dims is None:
        return "other"
    m, _, k = dims
    roles: set[Role] = set()
    for site in sites:
        r, k_in, n_out = site.rank, site.in_features, site.out_features
        if r is None or not site.active or r in (k_in, n_out):
            continue
        fits: dict[Role, set[tuple[int, int, int]]] = {
            "adapter.down": {(m, k_in, r), (r, k_in, k)} if backward else {(m, r, k_in)},
            "adapter.up": {(m, r, n_out), (n_out, r, k)} if backward else {(m, n_out, r)},
            "base.linear": {(m, k_in, n_out)} if backward else {(m, n_out, k_in)},
        }
        roles |= {role for role, shapes_of in fits.items() if dims in shapes_of}
    return roles.pop() if len(roles) == 1 else "other"
