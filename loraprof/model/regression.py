"""An op that some version of a library made slow: one row of ``profiles/regressions.toml``."""

import re

import msgspec

from loraprof.model.recording import DeviceInfo, Environment


class Regression(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``torch``: the first version that is slow and the first that is not any more; ``unless``: packages that mend it,
    from this version on; ``slower``: how many times, at least and at most, as reported."""

    op: str  # regular expression
    devices: tuple[str, ...]
    torch: tuple[str, str]
    slower: tuple[float, float]
    source: str
    mended: str
    patch: str
    axes: int | None = None
    dtypes: tuple[str, ...] = ()
    gpus: str = ""  # regular expression on the device's name
    unless: dict[str, str] = {}

    def holds(self, environment: Environment, device: DeviceInfo) -> bool:
        """Whether it is about the software and the device of a recording."""
        if environment.torch is None or device.kind not in self.devices or not re.search(self.gpus, device.name):
            return False
        first, mended = map(version, self.torch)
        packages = environment.packages
        mends = any(name in packages and version(packages[name]) >= version(v) for name, v in self.unless.items())
        return first <= version(environment.torch) < mended and not mends


def version(text: str) -> tuple[int, int, int]:
    """Of "2.9.1+cu128" (2, 9, 1); what is no number counts as 0."""
    parts = [int(found[0]) if (found := re.match(r"\d+", part)) else 0 for part in text.partition("+")[0].split(".")]
    major, minor, patch = (*parts, 0, 0, 0)[:3]
    return major, minor, patch
