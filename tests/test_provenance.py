"""What the compiler calls a module, and what happens where torch lacks what provenance is read from."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from loraprof.capture.compiled.dynamo import is_wrapper, named_modules
from loraprof.capture.compiled.provenance import FRAME, NOWHERE, Origin, Places, Provenance, parts_of
from loraprof.capture.compiled.watch import CompileWatch
from loraprof.capture.device.graph_names import graph_nodes
from loraprof.capture.modules.markers import Markers
from loraprof.model.recording import ModuleInfo


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("L['self']", ()),
        ("L['s'].up.base_layer", ("up", "base_layer")),
        ("L['self'].__dict__['_modules']['base_model'].__dict__['_modules']['model'].blocks.0.up",
         ("base_model", "model", "blocks", "0", "up")),
        ("L['self']._modules['blocks']._modules['1'].norm", ("blocks", "1", "norm")),
        ("L['self'].blocks[11].norm", ("blocks", "11", "norm")),
        ("getattr(L['self'].layers, '0').attn", ("layers", "0", "attn")),
        ("G['model']._orig_mod.head", ("head",)),
    ],
)  # fmt: skip
def test_names_of_modules(name: str, parts: tuple[str, ...]) -> None:
    assert parts_of(name) == parts


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(2, 2), nn.GELU()) for _ in range(2))


def places() -> tuple[Places, dict[nn.Module, int], dict[str, int]]:
    net = Net()
    rows = list(named_modules(net))
    ids = {module: i for i, (_, module) in enumerate(rows)}
    table = [ModuleInfo(id=i, path=path, cls=type(module).__name__) for i, (path, module) in enumerate(rows)]
    return Places(ids, table), ids, {path: i for i, (path, _) in enumerate(rows)}


def test_a_module_is_known_by_its_identity_else_by_the_only_path_that_fits() -> None:
    known, ids, by_path = places()
    linear = next(m for m, i in ids.items() if i == by_path["blocks.1.0"])
    assert known.number(Origin(str(id(linear)), ("0",), "Linear", True)) == by_path["blocks.1.0"]
    assert known.number(Origin(str(id(linear)), ("0",), "GELU", True)) == -1  # an id that was given again
    assert known.number(Origin("L__self___blocks_0_1", ("blocks", "0", "1"), "GELU", True)) == by_path["blocks.0.1"]
    assert known.number(Origin("L__self___1", ("1",), "GELU", True)) == -1  # of which block?
    assert known.number(NOWHERE) == known.number(FRAME) == -1


def test_the_module_whose_forward_was_compiled() -> None:
    known, ids, by_path = places()
    keys = {i: str(id(m)) for m, i in ids.items()}
    block, linear = by_path["blocks.1"], by_path["blocks.1.0"]
    assert known.root([Origin(keys[linear], ("0",), "Linear", True)]) == block
    assert known.root([Origin(keys[linear], ("blocks", "1", "0"), "Linear", True)]) == by_path[""]
    assert known.root([Origin(keys[linear], ("0",), "Linear", False)]) == -1  # a function called the module
    assert known.root([FRAME, NOWHERE]) == -1


def test_wrappers_of_compile_do_not_count() -> None:
    net = Net()
    net.blocks[1] = torch.compile(net.blocks[1], backend="eager")  # type: ignore[assignment]
    names = [name for name, _ in named_modules(net)]
    assert "blocks.1.0" in names
    assert not any("_orig_mod" in name for name in names)
    assert is_wrapper(net.blocks[1])
    markers = Markers()
    markers.adopt([net])
    assert len(markers.ids) == len(names)


def test_a_wrapper_leaves_the_ranges_around_it_open() -> None:
    net, aside = Net(), nn.Identity()
    wrapper: Any = torch.compile(aside, backend="eager")
    net.forward = lambda x: wrapper(x)
    markers = Markers()
    markers.step = 0
    markers.install()
    try:
        with torch.compiler.set_stance("force_eager"):
            net(torch.ones(2))
    finally:
        markers.remove()
    assert [c.module for c in markers.calls] == [markers.ids[aside], markers.ids[net]]
    assert wrapper not in markers.ids
    assert [path for path in markers.paths() if "Identity" in path or "_orig_mod" in path] == ["Identity"]


def test_a_listener_that_fails_leaves_compilation_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    debug = SimpleNamespace(set_kernel_post_grad_provenance_tracing=lambda *a, **k: calls.append(a) or 7)
    monkeypatch.setitem(sys.modules, "torch._inductor.debug", debug)
    provenance = Provenance()
    monkeypatch.setattr(provenance, "_hear", None)  # whatever goes wrong in it
    provenance.listen()
    told: Any = debug.set_kernel_post_grad_provenance_tracing
    assert told([object()], "kernel") == 7
    assert len(calls) == 1
    assert provenance.graphs({}, []) == []
    assert provenance.failed
    provenance.stop()
    assert debug.set_kernel_post_grad_provenance_tracing([], "kernel") == 7


def test_a_torch_without_the_interfaces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch._inductor.debug", SimpleNamespace())
    Provenance().listen()
    monkeypatch.setitem(sys.modules, "torch._dynamo.callback", None)
    watch = CompileWatch(lambda: None, lambda: None)
    watch.install()
    assert watch.notes
    watch.begin("skip")
    watch.step()
    watch.remove()
    watch.remove()
    assert graph_nodes() == {}


def test_settings_are_restored_and_those_of_the_user_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._inductor.config as config

    before = config.cpp.enable_kernel_profile, config.fx_graph_cache
    watch = CompileWatch(lambda: None, lambda: None)
    watch.install()
    assert (config.cpp.enable_kernel_profile, config.fx_graph_cache) == (True, False)
    watch.remove()
    assert (config.cpp.enable_kernel_profile, config.fx_graph_cache) == before
    monkeypatch.setenv("TORCHINDUCTOR_FX_GRAPH_CACHE", "1")
    watch = CompileWatch(lambda: None, lambda: None)
    watch.install()
    assert config.fx_graph_cache == before[1]
    watch.remove()


def test_names_of_captured_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    known = {5: [{"str": "blocks.0"}], 6: [{"name": "x"}], 7: [], 8: ["plain"]}
    module = SimpleNamespace(get_kernel_annotations=lambda: known)
    monkeypatch.setitem(sys.modules, "torch.cuda._graph_annotations", module)
    assert graph_nodes() == {5: "blocks.0", 6: "{'name': 'x'}", 8: "plain"}
