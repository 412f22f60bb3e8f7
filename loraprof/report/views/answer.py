"""What is the answer, and how sure is it? The first lines of a report's page."""

from collections import Counter
from collections.abc import Sequence

from loraprof import units
from loraprof.model.finding import Finding
from loraprof.model.report import NAMELESS, Adapter, Report, Step
from loraprof.model.vocabulary import ADAPTER_ROLES

DTYPES = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16", "mixed": "mixed"}
SURE = 1.005  # low end of a speed-up that is one
BARS = "▁▂▃▄▅▆▇█"
MOST_BARS = 32
PADDED = 0.01  # of the tokens: from here on it is said
FREELY = 2.5  # high / low: a prediction that does not say how much


def headline(report: Report) -> str:
    """The question's answer in numbers where there is one; else where the step goes."""
    caveat, answer = _caveat(report), _against_full(report)
    if report.rank_summary and len(report.ranks or []) > 1:
        answer = f"{report.rank_summary.sentence} {answer}".strip()
    return " ".join(filter(None, (caveat, answer or report.verdict.sentence)))


def lines(report: Report) -> tuple[str, ...]:
    """What was profiled, and why the answer is as it is, where the headline does not say so itself."""
    why = _why(report) if _against_full(report) else ""
    return tuple(filter(None, (" · ".join(_identity(report)), _ranks_at_work(report), why)))


def _ranks_at_work(report: Report) -> str:
    """Each rank's own work as a bar, in the order of ranks; of many, the longest of neighbours."""
    rows = sorted(report.ranks or [], key=lambda row: row.rank)
    if len(rows) < 2:
        return ""
    wide = -(-len(rows) // MOST_BARS)
    own = [max(row.own_ns for row in rows[i : i + wide]) for i in range(0, len(rows), wide)]
    most = max(*own, 1)
    bars = "".join(BARS[min(len(BARS) - 1, own_ns * len(BARS) // (most + 1))] for own_ns in own)
    each = f", a bar for {wide} ranks" if wide > 1 else ""
    return f"own work of ranks {rows[0].rank} to {rows[-1].rank}{each}: {bars} up to {units.ns(most)}"


def sure(report: Report) -> str:
    """How far the figures can be trusted, in one line; what is wrong comes first."""
    t, closure, step = report.timing, report.closure, report.step()
    words = [] if closure.ok else ["the trace has gaps: --section trust"]
    if report.replay:
        missed = units.percent(abs(report.replay.gate_error))
        words.append(f"the replay misses the profiled step by {missed}")
    if t.unprofiled and t.unprofiled.median_ns:
        u = t.unprofiled
        half = (u.high_ns - u.low_ns) / 2 / u.median_ns
        words.append(f"timing ±{units.percent(half)} over {units.count(u.steps)} steps")
    if t.crowded and t.cores is not None:
        words.append(f"other work on this machine: the process had {t.cores:.2f} of a core")
    if report.nvml and report.nvml.throttle is not None:
        words.append(f"throttled by {', '.join(report.nvml.throttle)}" if report.nvml.throttle else "not throttled")
    if step and (busy := step.ns(kind="busy")) and report.source.kind == "trace":
        unknown = step.ns(kind="busy", role="other")
        hint = ": record with_stack=True, record_shapes=True" if unknown >= NAMELESS * busy else ""
        words.append(f"{units.percent(1 - unknown / busy, 0)} of the work has a known role{hint}")
    elif step and busy:
        words.append(f"{units.percent(max(0.0, 1 - closure.unattributed_ns / busy), 0)} of the work attributed")
    return ", ".join(words)


def measured(report: Report) -> str:
    """What ``loraprof fix`` found on this recording's program; empty where it was not asked."""
    best = report.verdict.proven
    if best is None:
        return ""
    speed = units.ratio_interval(best.speedup, best.low, best.high, most=2)
    return f"{speed} the speed with {' and '.join(best.arms)}, by loraprof fix"


def _caveat(report: Report) -> str:
    """What a reader must know before any share."""
    t = report.timing
    if report.unprofiled is not None or report.step() is None:
        return ""
    if t.unprofiled is None:
        return "Profiled times; how long the step takes without the profiler is not known."
    return f"Shares are of the step under the profiler, which takes {units.ratio(t.inflation)} as long as without it."


def _against_full(report: Report) -> str:
    a, now, v = report.adapter, report.timing.unprofiled, report.verdict
    if a is None or now is None or a.predicted_full_ns is None or not a.predicted_full_interval or not now.median_ns:
        return ""
    low, high = a.predicted_full_interval.low, a.predicted_full_interval.high
    lora, full = units.ns(now.median_ns), units.ns(a.predicted_full_ns)
    bounds = units.ns_between(low, high, a.predicted_full_ns)
    compared = f"{lora} against {full} {bounds} {v.basis or 'predicted'}"
    if v.speedup_vs_full is None:
        return f"Whether LoRA is faster than full fine-tuning here is not known: {compared}."
    if low > now.median_ns or high < now.median_ns:
        word = "faster" if low > now.median_ns else "slower"
        if low <= 0 or high > FREELY * low:
            return f"LoRA is {word} than full fine-tuning here, by how much is not known: {compared}."
        times = a.predicted_full_ns / now.median_ns
        ends = sorted((low / now.median_ns, high / now.median_ns))
        if word == "slower":
            times, ends = 1 / times, sorted(1 / e for e in ends)
        decimals = units.interval_decimals(*ends, least=1, most=2)
        return f"LoRA is {units.ratio(times, decimals)} {word} than full fine-tuning here: {compared}."
    return f"LoRA is about as fast as full fine-tuning here, neither is established: {compared}."


def _identity(report: Report) -> list[str]:
    source, t, a = report.source, report.timing, report.adapter
    words: list[str] = [source.workload or source.path, source.device_name or source.device or "device unknown"]
    if t.tokens_per_step and t.unprofiled and t.unprofiled.median_ns:
        padding = 1 - t.real_tokens_per_step / t.tokens_per_step if t.real_tokens_per_step else 0.0
        rest = f", {units.percent(padding, 0)} of them padding" if padding >= PADDED else ""
        words.append(f"{units.count(round(t.tokens_per_step / t.unprofiled.median_ns * 1e9))} tokens/s{rest}")
    if source.ranks > 1:
        words.append(f"{units.count(source.ranks)} ranks, the slowest shown")
    if a is not None:
        words.append(f"{_form(a)} on {units.quantity(a.modules, 'layers')}")
        words.append(_dtypes(a))
    return words


def _form(a: Adapter) -> str:
    """``rank 16``; the name of a method that has no rank."""
    kinds = {site.kind for site in a.sites}
    ranked = a.rank is not None or any(rank.isdigit() for rank in a.ranks or {})
    return f"rank {ranks(a)}" if ranked or len(kinds) != 1 else f"PEFT's {kinds.pop()}"


def _dtypes(a: Adapter) -> str:
    """``fp32 adapters on a bf16 base``: where they differ the adapters' inputs and outputs are cast."""
    own = a.dtype or "mixed"
    base = f" on a {DTYPES.get(a.base_dtype, a.base_dtype)} base" if a.base_dtype not in (None, own) else ""
    return f"{DTYPES.get(own, own)} adapters{base}"


def ranks(a: Adapter) -> str:
    """``16``; ``8 (14 layers), unknown (2)`` where layers differ."""
    if a.rank is not None:
        return units.count(a.rank)
    of = [(rank if rank.isdigit() else "unknown", layers) for rank, layers in (a.ranks or {}).items()]
    return ", ".join(f"{rank} ({units.count(layers)})" for rank, layers in of) or "unknown"


def _why(report: Report) -> str:
    """The leading causes by name; where each may gain nothing, perhaps."""
    by_id = {f.id: f for f in report.findings}
    first = by_id.get(report.verdict.limiting_cause or "")
    majors = [f for f in report.findings if f.severity in ("major", "blocker") and f is not first]
    named: Sequence[Finding] = sorted((f for f in (first, *majors) if f is not None), key=_changes_training)[:2]
    if not named:
        return ""
    causes = "; ".join(f"{lowered(f.title)} ({f.id})" for f in named)
    sure = any(f.gain is None or f.gain.low > SURE for f in named)
    return f"{'Why' if sure else 'Perhaps'}: {causes}."


def _changes_training(finding: Finding) -> bool:
    """Whether nothing else is sure to help: what keeps the training as it is comes first."""
    return not any(r.kind != "other_training" and r.gain and r.gain.low > SURE for r in finding.remedies)


def lowered(title: str) -> str:
    """A title within a sentence: its first letter small unless the word is an abbreviation or a name."""
    first = title.split(" ", 1)[0]
    return title if any(c.isupper() or c.isdigit() for c in first[1:]) else title[:1].lower() + title[1:]


def where_title(step: Step, plain: bool) -> str:
    """Which step a bar is of."""
    how = "without the profiler" if plain else "under the profiler"
    return f"Where the {units.ns(step.wall_ns)} go, {how}"


def adapter_note(step: Step) -> str:
    """What most of the adapters' own time is."""
    times = {role: step.ns(kind="busy", role=role) for role in ADAPTER_ROLES}
    whole = sum(times.values())
    if not whole:
        return ""
    share = times["adapter.elementwise"] / whole
    return f"{units.percent(share, 0)} scale, add, casts" if share >= 0.1 else "nearly all A and B"


def shares(report: Report, most: int) -> tuple[int, bool, list[tuple[str, int]]] | None:
    """The step in ns, whether that is without the profiler, its largest roles and idle causes; None without a step."""
    step, plain = report.step(), report.unprofiled
    if step is None:
        return None
    wall_ns, parts = (plain.wall_ns, plain.partition) if plain else (step.wall_ns, step.partition)
    totals = Counter[str]()
    for part in parts:
        totals[part.role if part.kind == "busy" else f"idle:{part.cause}"] += part.ns
    return wall_ns, plain is not None, [(name, ns) for name, ns in totals.most_common(most) if ns]
