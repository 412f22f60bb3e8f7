"""The suite's results as Markdown: the table for the README, the limits, and what else was measured."""

from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

from benchmarks.gpu.acceptance import REMEDY_OF, Results, difference, promise, verdicts
from benchmarks.gpu.parts import MODELS, REMEDIES
from benchmarks.gpu.results import Counters, Facts, KernelTimes, Layer, Linear, MainJob, Model, Noise, Sessions
from loraprof import units
from loraprof.model.selftest import SelfTest

T = TypeVar("T")


def summary(results: Results) -> str:
    """One document; what was not measured is left out of the tables and named among the limits."""
    blocks = (
        _head,
        _models,
        _gains,
        _limits,
        _selftest,
        _noise,
        _kernels,
        _sessions,
        _linear,
        _activity,
        _counters,
        _recordings,
    )
    return "\n\n".join("\n".join(lines) for block in blocks if (lines := list(block(results)))) + "\n"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], words: int = 1) -> Iterator[str]:
    """Markdown; the first ``words`` columns hold words, the others numbers."""
    body = list(rows)
    if body:
        yield f"| {' | '.join(head)} |"
        yield "|" + "---|" * words + "---:|" * (len(head) - words)
        yield from (f"| {' | '.join(row)} |" for row in body)


def _of(results: Results, name: str, kind: type[T]) -> T | None:
    return results[name].of(kind) if name in results else None


def _head(results: Results) -> Iterator[str]:
    facts = _of(results, "facts", Facts)
    sizes = sorted({result.size for result in results.values()})
    yield f"# {facts.device_name if facts else 'Device unknown'}"
    yield ""
    yield f"Measured {', '.join(sorted({r.created[:10] for r in results.values()}))}; sizes: {', '.join(sizes)}."
    if any(result.device == "cpu" for result in results.values()):
        yield "A rehearsal on a CPU: the limits are meant for a GPU and say nothing here."


def _models(results: Results) -> Iterator[str]:
    head = ("model", "tokens/step", "full/LoRA predicted", "measured", "adapter cost predicted", "measured", "A/A")

    def rows() -> Iterator[Sequence[str]]:
        for name in MODELS:
            model = _of(results, name, Model)
            if model is None:
                continue
            full, cost = difference(model, "full - lora"), difference(model, "lora - frozen")
            seen, lora, whole = model.recorded, model.arms["lora"].median_ns, model.arms["full"].median_ns
            own = seen.step_ns if seen else None
            yield (
                name,
                units.count(model.tokens_per_step),
                units.ratio(1 + full.predicted / own if full and own else None),
                units.ratio(whole / lora if whole and lora else None),
                units.ns(cost.predicted if cost else None),
                units.ns(cost.measured if cost else None),
                units.percent(model.noise),
            )

    yield from table(head, rows())


def _gains(results: Results) -> Iterator[str]:
    def rows() -> Iterator[Sequence[str]]:
        for name in REMEDIES:
            model = _of(results, name, Model)
            for arm in model.arms if model else ():
                if model and arm in REMEDY_OF:
                    promised, mine, lora = promise(model, arm), model.arms[arm].median_ns, model.arms["lora"].median_ns
                    given = lora / mine if lora and mine else None
                    ids = promised.id if promised else " or ".join(REMEDY_OF[arm])
                    yield arm, ids, units.ratio(promised.speedup if promised else None), units.ratio(given)

    yield from table(("remedy", "of finding", "speed-up predicted", "measured"), rows(), words=2)


def _limits(results: Results) -> Iterator[str]:
    found = verdicts(results)
    rows = ((v.limit, v.subject, v.status, v.detail) for v in found)
    yield from table(("limit", "subject", "status", "detail"), rows, words=4)
    statuses = ("met", "missed", "undecided", "not measured")
    counts = ", ".join(f"{sum(v.status == s for v in found)} {s}" for s in statuses)
    yield ""
    yield f"Limits: {counts}."


def _selftest(results: Results) -> Iterator[str]:
    found = _of(results, "selftest", SelfTest)
    if found:
        bad = [*found.wrong(), *found.failed()]
        yield f"Self-test: {sum(row.ok for row in found.rows)} of {len(found.rows)} quantities as planted."
        yield from (f"* {one}" for one in bad)


def _noise(results: Results) -> Iterator[str]:
    found = _of(results, "noise", Noise)
    if found:
        ratio = units.ratio_interval(found.ratio, found.low, found.high)
        yield f"A/A: one arm against itself {ratio} over {found.steps} steps of {units.ns(found.median_ns)}."


def _kernels(results: Results) -> Iterator[str]:
    found = _of(results, "kernels", KernelTimes)
    head = ("kernel, per launch", "unprofiled", "traced", "inside the kernel", "traced / unprofiled")

    def rows() -> Iterator[Sequence[str]]:
        for k in found.kernels if found else ():
            times = (k.unprofiled_ns, k.traced_ns, k.kernel_ns)
            yield k.name, *map(units.ns, times), units.ratio(k.traced_ns / k.unprofiled_ns, 3)

    yield from table(head, rows())


def _sessions(results: Results) -> Iterator[str]:
    found = _of(results, "sessions", Sessions)
    for name, one in zip(("First", "Second"), found.sessions if found else (), strict=False):
        lost = one.launches_without_kernel + one.kernels_without_launch
        yield (
            f"{name} profiler session of a process: closure {'ok' if one.ok else 'broken'}, "
            f"{one.recorded} of {one.expected} records, {lost} without partner, "
            f"{one.zero_timestamps} without time, {one.negative_latency} before their launch."
        )


def _linear(results: Results) -> Iterator[str]:
    found = _of(results, "linear", Linear)
    if found:
        tokens = max(layer.tokens for layer in found.layers)
        most = [layer for layer in found.layers if layer.tokens == tokens]
        head = ("variant", "LoRA gains from hidden size, predicted", f"measured at {units.count(tokens)} tokens")
        rows = (
            (c.variant, units.count(round(c.predicted)), _crossed(c.measured, most, c.variant))
            for c in found.crossovers
        )
        yield from table(head, rows)
        yield ""
        yield f"Machine balance {found.balance:.0f} FLOP/B." + "".join(f" Left out: {one}." for one in found.skipped)


def _crossed(measured: float | None, layers: Sequence[Layer], variant: str) -> str:
    """The crossing, or on which side of the grid it lies."""
    if measured is not None:
        return units.count(round(measured))
    widest = max(layers, key=lambda layer: layer.hidden)
    if widest.variants[variant] >= widest.full_ns:
        return f"beyond {units.count(widest.hidden)}"
    return f"below {units.count(min(layer.hidden for layer in layers))}"


def _activity(results: Results) -> Iterator[str]:
    head = ("model", "tensor active", "modelled", "DRAM active", "modelled", "energy per step", "power")

    def rows() -> Iterator[Sequence[str]]:
        for name in MODELS:
            model = _of(results, name, Model)
            seen = model.recorded if model else None
            if seen is not None and seen.nvml is not None:
                shares = (seen.nvml.tensor_active, seen.tensor_model, seen.nvml.dram_active, seen.dram_model)
                energy, power = seen.nvml.energy_j_per_step, seen.nvml.power_w
                yield name, *map(units.percent, shares), _plain(energy, "J"), _plain(power, "W")

    yield from table(head, rows())


def _plain(value: float | None, unit: str) -> str:
    return units.NA if value is None else f"{units.number(value)} {unit}"


def _counters(results: Results) -> Iterator[str]:
    found = _of(results, "counters", Counters)
    if found:
        rows = (
            (
                f"`{k.name[:60]}`",
                k.role,
                units.ns(k.ns),
                units.nbytes(k.dram_bytes),
                units.nbytes(k.min_bytes),
                units.ratio(k.dram_bytes / k.min_bytes if k.min_bytes else None),
            )
            for k in found.kernels
        )
        yield from table(("kernel", "role", "time", "DRAM bytes", "minimum", "ratio"), rows, words=2)
        yield ""
        yield f"ncu and the trace agree on {found.matched} of {found.of} kernels."


def _recordings(results: Results) -> Iterator[str]:
    """Lines for ``profiles/recordings/README.md``."""

    def rows() -> Iterator[Sequence[str]]:
        for name in (*MODELS, *REMEDIES, "main-job"):
            kind = MainJob if name == "main-job" else Model
            made = _of(results, name, kind)
            seen = made.recorded if isinstance(made, Model | MainJob) else None
            if seen is not None:
                place = f"`{seen.gpu or 'GPU'}/{name}.loraprof`"
                kept = units.nbytes(seen.recording_bytes)
                yield place, seen.shows, kept if seen.recording else f"{kept}, too large to keep"

    yield from table(("recording", "what it shows", "compressed"), rows(), words=2)
