"""Device facts and calibration: what ``loraprof doctor --calibrate`` says here."""

import msgspec

from benchmarks.gpu.results import Facts, Options
from benchmarks.gpu.shell import json_of


def run(options: Options) -> Facts:
    dtype = "bfloat16" if options.device == "cuda" else "float32"
    said = json_of("doctor", "--calibrate", "--device", options.device, "--dtype", dtype, "--format", "json")
    checks = {check["name"]: check["detail"] for check in said["checks"]}
    name = checks.get("GPU 0" if options.device == "cuda" else "CPU", options.device)
    return msgspec.convert({**said, "device_name": name.split(",")[0]}, Facts)
