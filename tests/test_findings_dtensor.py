"""D7: the host's time in DTensor's dispatch."""

import pytest
from provoke import facts, found
from recorded import profiled


@pytest.mark.slow
def test_sharded_adapters_are_found_through_the_command_line() -> None:
    finding = found(profiled("dtensors.py", "sharded"))["D7"]
    seen = facts(finding)
    assert seen["ops that DTensor dispatched"] >= 4 * 5
    assert seen["redistributions"] >= 4
    assert 0.05 < seen["of the step"] < 1
    assert "replicate" in finding.remedy
    assert finding.gain is not None


@pytest.mark.slow
def test_plain_adapters_are_no_cause() -> None:
    assert "D7" not in found(profiled("dtensors.py", "replicated"))
