"""``loraprof selftest`` on this device."""

import msgspec

from benchmarks.gpu.results import Options
from benchmarks.gpu.shell import loraprof
from loraprof.model.selftest import SelfTest


def run(options: Options) -> SelfTest:
    """A quantity that is off is a result (code 3), a plant that failed too (code 4, with its JSON)."""
    said = loraprof("selftest", "--device", options.device, "--format", "json", expect=(0, 3, 4))
    return msgspec.json.decode(said, type=SelfTest)
