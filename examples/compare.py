"""Two recordings side by side, from Python and without torch: python examples/compare.py BASE.loraprof NEW.loraprof"""

import sys

import loraprof
from loraprof import units

found = loraprof.compare(*sys.argv[1:])
for name, arm in found.arms.items():
    print(f"{name}: {units.ns(arm.median_ns)} per step")
for ratio in found.ratios:
    print(f"{ratio.of} takes {ratio.ratio:.2f} times {ratio.to} ({ratio.low:.2f} to {ratio.high:.2f}): {ratio.verdict}")
if found.waterfall is not None:
    bars = sorted(found.waterfall.bars, key=lambda bar: abs(bar.ns), reverse=True)
    for bar in bars[:5]:
        print(f"{units.ns(bar.ns, signed=True):>12}  {bar.key}")
