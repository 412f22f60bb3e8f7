"""What does an estimate show? The answer, the arms, the way between them, memory and what the shapes decide; pure."""

from collections.abc import Sequence

from loraprof import units
from loraprof.model.estimate import ArmEstimate, Estimate, GpuEstimate, Memory, Span
from loraprof.report.document import Block, Cell, Column, Document, Facts, Paragraph, Row, Section, Table
from loraprof.report.views.compare import waterfall
from loraprof.report.views.report import findings_section

BOUND = (
    "Nothing was run: times are work from shapes against data sheets, at the rates below; brackets are their spread."
)
UNFIT = "too big"
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
        f"rank {s.rank} on {units.count(found.adapted)} layers",
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
    columns = (
        Column("GPU"),
        Column("full", number=True),
        Column("LoRA", number=True),
        Column("speed-up", number=True),
        Column("verdict"),
        Column("if free", number=True, drop=3),
        Column("pays from width", "width", number=True, drop=2),
        Column("full GiB", number=True, drop=1),
        Column("LoRA GiB", number=True),
    )
    order = sorted(gpus, key=lambda one: one.arms["lora"].step_ns)
    return Section(
        "gpus",
        "By GPU",
        (Table(columns, tuple(_gpu(one) for one in order)),),
        "fastest LoRA step first; no: it does not fit",
    )


def _gpu(one: GpuEstimate) -> Row:
    word = _verdict_of(one)
    return (
        Cell(one.gpu),
        Cell(units.ns(one.arms["full"].step_ns), one.arms["full"].step_ns),
        Cell(units.ns(one.arms["lora"].step_ns), one.arms["lora"].step_ns),
        Cell(units.ratio_interval(one.speedup.value, one.speedup.low, one.speedup.high), one.speedup.value),
        Cell(word, tone={"faster": "good", "slower": "bad"}.get(word, "rest")),
        Cell(units.ratio(one.ideal.value), one.ideal.value),
        Cell(units.count(one.crossover_width and round(one.crossover_width)), one.crossover_width),
        _needs(one.arms["full"].memory),
        _needs(one.arms["lora"].memory),
    )


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
        Column("step", number=True),
        Column("forward", number=True, drop=1),
        Column("backward", number=True, drop=1),
        Column("optimizer", number=True, drop=1),
        Column("tokens/s", number=True),
        Column("launches", number=True, drop=3),
        Column("trained", number=True, drop=2),
    )
    return Table(columns, tuple(_arm(name, arm) for name, arm in one.arms.items()))


def _arm(name: str, arm: ArmEstimate) -> Row:
    parts = (arm.forward_ns, arm.backward_ns, arm.optimizer_ns)
    return (
        Cell(ARM_NAMES[name]),
        Cell(units.ns_interval(arm.step_ns, arm.low_ns, arm.high_ns), arm.step_ns),
        *(Cell(units.ns(ns), ns) for ns in parts),
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
    columns = (Column("arm"), *(Column(t, number=True, drop=1) for t in titles), Column("peak", number=True),
               Column("fits"))  # fmt: skip
    rows = []
    for name, arm in one.arms.items():
        m = arm.memory
        sizes = (m.weights_bytes, m.gradients_bytes, m.optimizer_bytes, m.activations_bytes, m.peak_bytes)
        cells = (Cell(units.nbytes(size), size) for size in sizes)
        rows.append((Cell(ARM_NAMES[name]), *cells, Cell("yes" if m.fits else "no", tone="good" if m.fits else "bad")))
    return Table(columns, tuple(rows))


def _work(arm: ArmEstimate) -> Table:
    columns = (
        Column("phase"),
        Column("role"),
        Column("kernels", number=True),
        Column("work", number=True, drop=1),
        Column("bytes", number=True, drop=1),
        Column("time", number=True),
        Column("% of step", number=True),
    )
    rows = (
        (
            Cell(row.phase),
            Cell("waiting for the host" if row.role == "host" else row.role),
            Cell(units.count(row.kernels), row.kernels),
            Cell(units.flops(row.flops) if row.flops else "", row.flops),
            Cell(units.nbytes(row.bytes) if row.bytes else "", row.bytes),
            Cell(units.ns(row.ns), row.ns),
            Cell(units.percent(row.ns / arm.step_ns), row.ns),
        )
        for row in arm.rows
    )
    return Table(columns, tuple(rows))


def _rates(one: GpuEstimate) -> Table:
    columns = (Column("shape"), Column("value", number=True), Column("low", number=True), Column("high", number=True),
               Column("source", elastic=True))  # fmt: skip
    rows = (
        (Cell(r.shape), *(Cell(units.number(v), v) for v in (r.value, r.low, r.high)), Cell(r.source))
        for r in one.rates
    )
    return Table(columns, tuple(rows))
