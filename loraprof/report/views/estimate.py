"""What does an estimate show? The answer, the arms, the way between them, memory and what the shapes decide; pure."""

from collections.abc import Sequence

from loraprof import units
from loraprof.model.estimate import ArmEstimate, Estimate, GpuEstimate, Memory, Span
from loraprof.report.document import (
    Block,
    Cell,
    Column,
    Document,
    Facts,
    Paragraph,
    Row,
    Section,
    Table,
    numbers,
    table_of,
)
from loraprof.report.views.compare import waterfall
from loraprof.report.views.report import findings_section

BOUND = (
    "Nothing was run: times are work from shapes against data sheets, at the rates below; brackets are their spread."
)
UNFIT = "too big"
TONES = {"faster": "good", "slower": "bad"}
ARM_NAMES = {"full": "full fine-tuning", "frozen": "frozen base, no adapters", "lora": "LoRA"}


def view_estimate(found: Estimate) -> Document:
    """Everything a renderer prints about an estimate."""
    title = f"loraprof estimate: {found.model}"
    facts = [("input", _input(found)), ("basis", BOUND), *(("note", note) for note in found.notes)]
    if len(found.gpus) > 1:
        return Document(title, _headline_of_many(found), tuple(facts), (_gpus(found.gpus),))
    return Document(title, _headline(found.gpus[0]), tuple(facts), tuple(_sections(found.gpus[0])))


def _input(found: Estimate) -> str:
    s = found.settings
    words = [
        f"{found.model}, {units.number(found.parameters / 1e9)} B parameters",
        (f"{units.count(s.batch)} images" if found.images else f"{units.count(s.batch)} x {units.count(s.seq)} tokens")
        + (f" x {s.accumulate}" if s.accumulate > 1 else ""),
        f"rank {s.rank} on {units.quantity(found.adapted, 'layers')}",
        f"{s.dtype} base, {'its' if s.adapter_dtype == 'same' else s.adapter_dtype} adapters",
        *([f"autocast {s.autocast}"] if s.autocast != "none" else []),
        *([f"{s.quantized} weights"] if s.quantized != "none" else []),
        *(["checkpointing"] if s.checkpointing else []),
        *([f"{s.kernels} kernels"] if s.kernels != "eager" else []),
        *([f"{s.adapter_kernels} adapters"] if s.adapter_kernels != "eager" else []),
        *([f"{s.gpus} GPUs, {s.parallel}"] if s.gpus > 1 else []),
        s.optimizer,
    ]
    return " · ".join(words)


def verdict(speedup: Span) -> str:
    """Faster or slower where the whole interval says so."""
    if speedup.low > 1:
        return "faster"
    return "slower" if speedup.high < 1 else "undecided"


def _headline(one: GpuEstimate) -> str:
    ratio, word = units.ratio_interval(one.speedup.value, one.speedup.low, one.speedup.high), verdict(one.speedup)
    times = f"{units.ns(one.arms['lora'].step_ns)} against {units.ns(one.arms['full'].step_ns)}"
    needed = one.arms["full"].memory
    room = "" if needed.fits else f" Full fine-tuning does not fit: it needs {units.nbytes(needed.peak_bytes)}."
    if word == "undecided":
        return f"On {one.name} the shapes do not decide: LoRA has {ratio} the speed of full fine-tuning, {times}.{room}"
    return f"On {one.name} LoRA is estimated {word} than full fine-tuning: {ratio} its speed, {times}.{room}"


def _headline_of_many(found: Estimate) -> str:
    words = [_verdict_of(one) for one in found.gpus]
    fast, slow, unfit = (words.count(word) for word in ("faster", "slower", UNFIT))
    rest = f", and {unfit} cannot hold it" if unfit else ""
    return (
        f"LoRA is estimated faster than full fine-tuning on {fast} of {len(words)} GPUs and slower on {slow}; "
        f"on {words.count('undecided')} the shapes do not decide{rest}."
    )


def _verdict_of(one: GpuEstimate) -> str:
    return verdict(one.speedup) if one.arms["lora"].memory.fits else UNFIT


def _gpus(gpus: Sequence[GpuEstimate]) -> Section:
    table = table_of(
        sorted(gpus, key=lambda gpu: gpu.arms["lora"].step_ns),
        (Column("GPU"), lambda gpu: Cell(gpu.gpu)),
        (numbers("full"), lambda gpu: _time(gpu.arms["full"].step_ns)),
        (numbers("LoRA"), lambda gpu: _time(gpu.arms["lora"].step_ns)),
        (numbers("speed-up"), lambda gpu: _speedup(gpu.speedup)),
        (Column("verdict"), lambda gpu: Cell(_verdict_of(gpu), tone=TONES.get(_verdict_of(gpu), "rest"))),
        (numbers("if free", drop=3), lambda gpu: Cell(units.ratio(gpu.ideal.value), gpu.ideal.value)),
        (numbers("pays from width", "width", drop=2), lambda gpu: _width(gpu.crossover_width)),
        (numbers("full GiB", drop=1), lambda gpu: _needs(gpu.arms["full"].memory)),
        (numbers("LoRA GiB"), lambda gpu: _needs(gpu.arms["lora"].memory)),
    )
    return Section("gpus", "By GPU", (table,), "fastest LoRA step first; no: it does not fit")


def _time(ns: int) -> Cell:
    return Cell(units.ns(ns), ns)


def _speedup(span: Span) -> Cell:
    return Cell(units.ratio_interval(span.value, span.low, span.high), span.value)


def _width(features: float | None) -> Cell:
    return Cell(units.count(features and round(features)), features)


def _needs(memory: Memory) -> Cell:
    text = units.number(memory.peak_bytes / 2**30)
    return Cell(text if memory.fits else f"no: {text}", memory.peak_bytes, tone="" if memory.fits else "bad")


def _sections(one: GpuEstimate) -> list[Section]:
    free = f"at most {units.ratio(one.ideal.value)} if the adapters were free"
    difference = units.ns(one.waterfall.to_ns - one.waterfall.from_ns, signed=True)
    sections = [
        Section("arms", "One optimizer step", (_arms(one),), free),
        Section("waterfall", "From full fine-tuning to LoRA", (waterfall(one.waterfall),), difference),
        Section("pays", "Where LoRA pays", (Facts(tuple(_pays(one))),)),
        Section("memory", "Memory of one GPU", (_memory(one),)),
    ]
    if one.findings:
        sections.append(findings_section(one.findings))
    work: tuple[Block, ...] = (_work(one.arms["lora"]),)
    sections.append(Section("work", "The LoRA step by phase and role", work, detail=True))
    rates = (_rates(one), Paragraph("Of the data sheet's peak, or in the unit named."))
    sections.append(Section("rates", "Rates", rates, detail=True))
    return sections


def _arms(one: GpuEstimate) -> Table:
    columns = (
        Column("arm"),
        numbers("step"),
        numbers("forward", drop=1),
        numbers("backward", drop=1),
        numbers("optimizer", drop=1),
        numbers("tokens/s"),
        numbers("launches", drop=3),
        numbers("trained", drop=2),
    )
    return Table(columns, tuple(_arm(name, arm) for name, arm in one.arms.items()))


def _arm(name: str, arm: ArmEstimate) -> Row:
    parts = (arm.forward_ns, arm.backward_ns, arm.optimizer_ns)
    return (
        Cell(ARM_NAMES[name]),
        Cell(units.ns_interval(arm.step_ns, arm.low_ns, arm.high_ns), arm.step_ns),
        *map(_time, parts),
        Cell(units.count(round(arm.tokens_per_s)), arm.tokens_per_s),
        Cell(units.count(arm.launches), arm.launches),
        Cell(units.count(arm.trainable), arm.trainable),
    )


def _pays(one: GpuEstimate) -> list[tuple[str, str]]:
    facts = []
    if one.crossover_width is not None:
        width = units.count(round(one.crossover_width))
        facts.append(("width", f"square layers from {width} features on gain in forward and backward"))
    if one.pays is not None:
        ranges = [_range(low, high) for low, high in one.pays]
        facts.append(("tokens", "; ".join(ranges) + " per micro-batch" if ranges else "at no number per micro-batch"))
    return facts


def _range(low: int | None, high: int | None) -> str:
    if low is None and high is None:
        return "any number"
    if low is None:
        return f"up to {units.count(high)}"
    return f"from {units.count(low)}" if high is None else f"from {units.count(low)} to {units.count(high)}"


def _memory(one: GpuEstimate) -> Table:
    titles = ("weights", "gradients", "optimizer", "activations")
    columns = (Column("arm"), *(numbers(title, drop=1) for title in titles), numbers("peak"), Column("fits"))
    rows = []
    for name, arm in one.arms.items():
        m = arm.memory
        sizes = (m.weights_bytes, m.gradients_bytes, m.optimizer_bytes, m.activations_bytes, m.peak_bytes)
        cells = (Cell(units.nbytes(size), size) for size in sizes)
        rows.append((Cell(ARM_NAMES[name]), *cells, Cell("yes" if m.fits else "no", tone="good" if m.fits else "bad")))
    return Table(columns, tuple(rows))


def _work(arm: ArmEstimate) -> Table:
    return table_of(
        arm.rows,
        (Column("phase"), lambda row: Cell(row.phase)),
        (Column("role"), lambda row: Cell("waiting for the host" if row.role == "host" else row.role)),
        (numbers("kernels"), lambda row: Cell(units.count(row.kernels), row.kernels)),
        (numbers("work", drop=1), lambda row: Cell(units.flops(row.flops) if row.flops else "", row.flops)),
        (numbers("bytes", drop=1), lambda row: Cell(units.nbytes(row.bytes) if row.bytes else "", row.bytes)),
        (numbers("time"), lambda row: _time(row.ns)),
        (numbers("% of step"), lambda row: Cell(units.percent(row.ns / arm.step_ns), row.ns)),
    )


def _rates(one: GpuEstimate) -> Table:
    return table_of(
        one.rates,
        (Column("shape"), lambda r: Cell(r.shape)),
        (numbers("value"), lambda r: Cell(units.number(r.value), r.value)),
        (numbers("low"), lambda r: Cell(units.number(r.low), r.low)),
        (numbers("high"), lambda r: Cell(units.number(r.high), r.high)),
        (Column("source", elastic=True), lambda r: Cell(r.source)),
    )
