"""B11, B12: a network that does not train beside one that does, and sampling."""

import msgspec
import pytest
from provoke import facts, found, made, shaped, synthetic

import loraprof
from loraprof.model.recording import ModuleInfo, ParameterInfo

FROZEN = ParameterInfo(
    id=36, name="weight", module=62, shape=(32_000, 4096), dtype="bfloat16", trainable=False, device="cuda:0"
)


def test_the_time_of_a_frozen_network_is_that_of_its_own_modules() -> None:
    """The head as a network of its own: all it takes, and nothing of the layers."""
    run = synthetic("bandwidth-v1")
    *model, head = run.recording.modules

    def with_head(path: str) -> list[ModuleInfo]:
        return [*model, msgspec.structs.replace(head, root=head.id, path=path, cls="Teacher")]

    parameters = [*run.recording.parameters, FROZEN]
    path = made(run, modules=with_head("teacher"), parameters=parameters)
    finding, step = found(path)["B11"], loraprof.diagnose(made(run)).step()
    assert step is not None
    seen, own = facts(finding), step.ns(role="head")
    assert own > 2 * 2 * 4096 * 4096 * 32_000 / 400_000  # two products
    assert (seen["networks without a trainable parameter"], seen["largest of them"]) == (1, "teacher")
    assert (seen["their time"], seen["of the step"]) == (own, own / step.wall_ns)
    assert finding.gain is not None
    assert finding.gain.ns == own
    assert facts(found(made(run, modules=with_head(""), parameters=parameters))["B11"])["largest of them"] == "Teacher"
    every = [msgspec.structs.replace(p, trainable=False) for p in parameters]
    assert "B11" not in found(made(run, modules=with_head("teacher"), parameters=every))  # nothing trains at all


@pytest.mark.parametrize(("vocab", "told"), [(10_000, False), (13_000, True)])
def test_a_network_below_a_tenth_of_the_step_is_no_cause(vocab: int, told: bool) -> None:
    run = shaped(hidden=4096, ffn=11008, tokens=4096, vocab=vocab)
    *model, head = run.recording.modules
    own = msgspec.structs.replace(head, root=head.id)
    path = made(run, modules=[*model, own], parameters=[*run.recording.parameters, FROZEN])
    step = loraprof.diagnose(path).step()
    assert step is not None
    assert step.ns(role="head") / step.wall_ns == pytest.approx(0.1, rel=0.2)
    assert ("B11" in found(path)) == told
