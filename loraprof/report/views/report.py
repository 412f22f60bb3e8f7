"""What does a report show, and in which order? Report to ``Document``; pure.

The answer, what LoRA saves and adds, where the step goes, what to do, how sure; then the tables behind these. Every
time is of the step as it runs without the profiler, where that is known.
"""

from importlib.util import find_spec
from shlex import quote

from msgspec.structs import replace

from loraprof import units
from loraprof.model.compilation import CompiledReport
from loraprof.model.finding import Finding
from loraprof.model.report import MemoryReport, NvmlReport, Report, Step, Traffic
from loraprof.report.document import Bar, Block, Document, Facts, Paragraph, Remark, Remarks, Section, Segment
from loraprof.report.palette import CAUSE_TONES, CPU_LABELS, ROLE_TONES, TONES
from loraprof.report.views import answer, tables
from loraprof.report.views.adapter import account_section, adapter_section
from loraprof.report.views.as_it_runs import as_it_runs
from loraprof.report.views.ranks import communication_section, ranks_section

NEAR = 0.05  # of a step: what two passes may differ by
SMALL = 0.005  # of the step: parts below it are one
FIX = find_spec("loraprof.cli.fix") is not None


def view(report: Report) -> Document:
    """Everything a renderer prints about a report."""
    shown = as_it_runs(report)
    title = f"loraprof: {report.source.workload or report.source.path}"
    sections = tuple(_sections(report, shown))
    return Document(title, answer.headline(report), (), sections, answer.lines(report))


def _sections(report: Report, shown: Report) -> list[Section]:
    from loraprof.report.views.proposals import proposals_section  # the rules, which an estimate does without

    step, cpu, plain = shown.step(), report.source.device == "cpu", report.unprofiled is not None
    account = account_section(shown)
    sections = [account] if account else []
    if step is None:
        text = "The input holds no step: nothing can be partitioned."
        sections.append(Section("time", "Where the step goes", (Paragraph(text),), brief=True))
    else:
        parts = partition_bar(step, cpu=cpu)
        bar = Bar(_rows(parts, step)) if parts else Paragraph("This step is empty: it ends where it starts.")
        sections.append(Section("time", answer.where_title(step, plain), (bar,), step.name, brief=True))
    sections.append(proposals_section(report))
    sections.append(Section("sure", "How sure", _sure(report), brief=True))
    if step is not None:
        sections.append(Section("phases", "Time by phase and role", (tables.phase_roles(step),)))
        if step.ns(kind="idle"):
            title = "Time outside ops, by cause" if cpu else "Idle time by cause"
            sections.append(Section("idle", title, (tables.idle_causes(step, cpu=cpu),), _launches(step, plain)))
    if shown.kernels:
        title = "Top ops" if cpu else "Top kernels"
        sections.append(Section("kernels", title, (tables.kernel_table(shown),), _ceilings(shown)))
    if report.compiled:
        sections.append(Section("compiled", "Compiled code", (_compiled(report.compiled),)))
    sections.append(adapter_section(shown, step))
    if shown.traffic:
        rate = report.ceilings.copy_bytes_per_s if report.ceilings else None
        sections.append(_traffic(shown.traffic, step, rate))
    if report.communication:
        sections.append(communication_section(report.communication, report.adapter is not None))
    if report.rank_summary and report.ranks:
        sections.append(ranks_section(report.rank_summary, report.ranks))
    sections.append(findings_section(report.findings))
    if shown.modules:
        sections.append(Section("modules", "Modules", (tables.module_table(shown.modules),), detail=True))
    if len(report.steps) > 1:
        sections.append(Section("steps", "Profiled steps", (tables.step_table(report.steps),), detail=True))
    sections.append(Section("trust", "How far to trust this", tuple(_trust(report, report.step()))))
    return sections


def _sure(report: Report) -> tuple[Block, ...]:
    source, ids = report.source, [f.id for f in report.findings[:1]]
    ranks = f"--nproc-per-node {source.ranks} " if source.ranks > 1 else ""
    fix = f"loraprof fix {ranks}{source.target}" if FIX and source.target else ""
    more = " · ".join(
        [f"loraprof report {quote(source.path)} --full", "--section NAME", *(f"explain {i}" for i in ids)]
    )
    facts = (("sure?", answer.sure(report)), ("measured", answer.measured(report)), ("prove it", fix), ("more", more))
    return (Facts(tuple((label, text) for label, text in facts if text)),)


def _rows(segments: tuple[Segment, ...], step: Step) -> tuple[Segment, ...]:
    """Busy parts by their time, then idle ones; the adapters say what they mostly are. What reads 0 is left out."""
    scale = units.ns_scale([step.wall_ns])
    small = [s for s in segments if s.ns < SMALL * step.wall_ns]
    if len(small) > 1:
        ns = sum(s.ns for s in small)
        share = units.percent(ns / step.wall_ns if step.wall_ns else 0.0)
        rest = Segment(f"{len(small)} smaller parts", ns, f"{scale(ns)} {scale.unit}", share, "rest")
        segments = (*(s for s in segments if s not in small), rest)
    segments = tuple(s for s in segments if s.ns >= step.wall_ns or any(digit in "123456789" for digit in scale(s.ns)))
    ordered = sorted(segments, key=lambda s: (s.label.startswith("idle"), -s.ns))
    return tuple(replace(s, note=answer.adapter_note(step)) if s.tone == "adapter" else s for s in ordered)


def partition_bar(step: Step, *, cpu: bool = False) -> tuple[Segment, ...]:
    """Busy groups, then idle groups, in the palette's order; their shares add up to 100 %."""
    totals = dict.fromkeys(TONES, 0)
    for p in step.partition:
        tone = ROLE_TONES[p.role] if p.kind == "busy" else CAUSE_TONES[p.cause or "unknown"]
        totals[tone] += p.ns
    totals[CAUSE_TONES["launch_latency"]] -= step.held_ns
    totals[CAUSE_TONES["queued"]] += step.held_ns
    present = [(tone, total_ns) for tone, total_ns in totals.items() if total_ns]
    shares = units.shares([total_ns for _, total_ns in present])
    scale = units.ns_scale([step.wall_ns])
    labels = {tone: CPU_LABELS.get(tone, t.label) if cpu else t.label for tone, t in TONES.items()}
    return tuple(
        Segment(labels[tone], total_ns, f"{scale(total_ns)} {scale.unit}", share, tone)
        for (tone, total_ns), share in zip(present, shares, strict=True)
    )


def _launches(step: Step, plain: bool) -> str:
    launches = step.launches
    if launches is None:
        return ""
    calls = f"{units.count(launches.count)} launches, {units.ns(launches.api_median_ns)} per call"
    profiled = " under the profiler" if plain else ""
    return f"{calls}{profiled}, {units.ns(launches.latency_floor_ns)} to start"


def _ceilings(report: Report) -> str:
    """Each dtype's own rate: a product is held against that of its operands."""
    c = report.ceilings
    if c is None:
        return ""
    rates: dict[str, float | None] = {**c.flops_per_s} if c.flops_per_s else {"": c.gemm_flops_per_s}
    words = [f"{answer.DTYPES.get(dtype, dtype)} {units.flops_per_s(rate)}".strip() for dtype, rate in rates.items()]
    return f"roofs {', '.join([*words, units.bytes_per_s(c.copy_bytes_per_s)])} ({c.basis})"


def _compiled(c: CompiledReport) -> Facts:
    part = f"{units.ns(c.busy_ns)}, {units.percent(c.share)} of the step"
    known = units.percent(c.known_ns / c.busy_ns if c.busy_ns else None)
    calls = f"{units.count(c.kernels)}; regions in the forward pass: {units.count(c.regions)}"
    lines = [("in compiled regions", part), ("kernel calls", calls), ("modules known for", f"{known} of that time")]
    if c.host_ns:
        lines.append(("own Python", f"{units.ns(c.host_ns)} between the kernels"))
    if c.mixed_ns:
        lines.append(("adapter ops among others", f"in kernels that take {units.ns(c.mixed_ns)}"))
    if c.compile_ns is not None:
        after = f"recompilations since the warm-up: {units.count(c.recompilations)}"
        lines.append(("compiling", f"{units.ns(c.compile_ns)}; {after}; graph breaks: {units.count(c.graph_breaks)}"))
    return Facts(tuple(lines))


def _traffic(traffic: list[Traffic], step: Step | None, ceiling: float | None) -> Section:
    sentence = tables.traffic_sentence(traffic, step) if step else None
    blocks: list[Block] = [Paragraph(sentence)] if sentence else []
    aside = "every input read once, every output written once"
    return Section("traffic", "Memory traffic", (*blocks, tables.traffic_table(traffic, ceiling)), aside)


def remark(finding: Finding) -> Remark:
    """One finding as text: evidence with units, and its gain with interval and basis."""
    gain = ""
    if finding.gain:
        g = finding.gain
        gain = f"{units.ns(g.ns)} per step, {units.gain_interval(g.speedup, g.low, g.high)} ({g.basis})"
    evidence = tuple(f"{e.what}: {units.quantity(e.value, e.unit)}" for e in finding.evidence)
    return Remark(finding.id, finding.severity, finding.title, evidence, finding.remedy, gain, tuple(finding.see))


def findings_section(findings: list[Finding]) -> Section:
    """Findings in the order the report gives them: gates first, then by gain."""
    if not findings:
        return Section("findings", "Findings", (Paragraph("None of the checks that this input allows has fired."),))
    aside = f"{units.count(len(findings))}; gains overlap and do not add up"
    return Section("findings", "Findings", (Remarks(tuple(map(remark, findings))),), aside)


def _trust(report: Report, step: Step | None) -> list[Block]:
    source, now = report.source, report.timing.unprofiled
    lines = [
        ("input", " · ".join([source.path, *([f"torch {source.torch}"] if source.torch else [])])),
        ("timing", _timing(report)),
        ("memory", _memory(report.memory)),
        ("device", _nvml(report.nvml, report.closure.notes, now.median_ns if now else None)),
    ]
    if report.replay:
        r = report.replay
        verdict = "accepted" if r.accepted else "withheld"
        host = f", host speed {units.ratio(r.host_factor)}" if r.host_factor is not None else ""
        lines.append(("replay", f"misses the profiled step by {units.percent(abs(r.gate_error))}{host}: {verdict}"))
    if report.verdict.unclear:
        lines.append(("unclear", report.verdict.unclear))
    lines.append(("closure", _closure(report, step)))
    lines += [("note", note) for note in report.closure.notes]
    return [Facts(tuple(lines))]


def _timing(report: Report) -> str:
    t = report.timing
    if t.unprofiled is None:
        return f"{units.ns(t.profiled_ns)} profiled; no unprofiled time is known"
    u = t.unprofiled
    words = [f"{units.ns_interval(u.median_ns, u.low_ns, u.high_ns)} unprofiled, {units.count(u.steps)} steps"]
    words.append(f"{units.ns(t.profiled_ns, 4)} profiled ({units.ratio(t.inflation)})")
    if t.tokens_per_step:
        words.append(f"{units.count(round(t.tokens_per_step / u.median_ns * 1e9))} tokens/s")
    return " · ".join(words)


def _memory(m: MemoryReport | None) -> str:
    if m is None:
        return "n/a"
    kinds = (
        ("weights", m.weights_bytes),
        ("gradients", m.gradients_bytes),
        ("optimizer", m.optimizer_bytes),
        ("activations", m.activations_bytes),
    )
    words = [f"peak {units.nbytes(m.peak_bytes)}", f"reserved {units.nbytes(m.reserved_bytes)}"]
    words += [f"{name} {units.nbytes(value)}" for name, value in kinds]
    if m.allocator_retries:
        words.append(f"{units.count(m.allocator_retries)} allocator retries")
    return " · ".join(words)


def _nvml(n: NvmlReport | None, notes: list[str], step_ns: int | None) -> str:
    if n is None:
        reasons = [note.removeprefix("NVML: ") for note in notes if "nvml" in note.lower()]
        return f"NVML absent: {'; '.join(reasons) or 'the input carries no samples'}"
    clock = f"SM clock {units.quantity(n.sm_clock_mhz, 'MHz')} of {units.quantity(n.sm_clock_max_mhz, 'MHz')}"
    words = [f"{units.quantity(n.power_w, 'W')} of {units.quantity(n.power_limit_w, 'W')}", clock]
    words.append(f"utilisation {units.percent(n.utilization, 0)}")
    if n.tensor_active is not None:
        words.append(f"tensor pipe {units.percent(n.tensor_active, 0)}")
    if n.dram_active is not None:
        words.append(f"DRAM {units.percent(n.dram_active, 0)}")
    words.append(f"{units.quantity(n.energy_j_per_step, 'J')} per step{_sampled_steps(n, step_ns)}")
    if n.throttle is not None:
        words.append(f"throttled: {', '.join(n.throttle)}" if n.throttle else "not throttled")
    words.append(f"{units.count(n.samples)} samples")
    return " · ".join(words)


def _sampled_steps(n: NvmlReport, step_ns: int | None) -> str:
    """Said where the steps that were sampled took longer or shorter than the timed ones."""
    took = n.sampled_step_ns
    if not took or not step_ns or abs(took / step_ns - 1) < NEAR:
        return ""
    return f" (sampled while steps took {units.ns(took)}, scaled)"


def _closure(report: Report, step: Step | None) -> str:
    c = report.closure
    words = ["holds" if c.ok else "DOES NOT HOLD"]
    if step:
        words.append(f"the parts add up to the step's {units.count(step.wall_ns)} ns exactly")
    words.append(f"{units.ns(c.unattributed_ns)} unattributed")
    faults = (
        ("launches without a kernel", c.launches_without_kernel),
        ("kernels without a launch", c.kernels_without_launch),
        ("kernels before their launch", c.negative_latency),
        ("zero timestamps", c.zero_timestamps),
        ("attribution disagreements", c.attribution_disagreements),
    )
    words += [f"{units.count(value)} {name}" for name, value in faults if value]
    return " · ".join(words)
