"""N findings: clocks, power and memory, as NVML and the allocator saw them."""

from loraprof.analysis.step.tables import REASONS
from loraprof.diagnosis.case import Case
from loraprof.diagnosis.findings.transfers import SPILLED, WEIGHT_COPIES
from loraprof.diagnosis.remedies import power as remedies
from loraprof.diagnosis.rule import POWER, Rule, Seen, evidence
from loraprof.diagnosis.select import idle, worth

THROTTLED = 0.05  # N1: of the samples, or of the loop
IDLE = "low_utilization"  # the driver slows a device that waits: an effect, no limit
UTILIZATION = 90.0  # N2: percent
POWER_SHARE = 0.50  # N2: of the limit
TENSOR = 0.10  # N2: activity of the tensor pipe
FULL = 0.95  # N3: reserved memory over the device's
ALLOCATOR_SHARE = 0.01  # N3: of the step
COPY_SHARE = 0.01  # N3: host-device copies, of busy time


def throttled(case: Case) -> Seen | None:
    """N1: a power or heat limit held the clocks down."""
    sampled = case.nvml
    if sampled is None:
        return None
    bits = [s.reasons for s in sampled.samples if s.reasons is not None]
    shares = {text: sum(bool(b & bit) for b in bits) / len(bits) for bit, text in REASONS.items()} if bits else {}
    held = {text: share for text, share in shares.items() if share > THROTTLED}
    grown = {
        name: ns
        for name, ns in sampled.violations_ns.items()
        if name != IDLE and sampled.loop_ns and ns > THROTTLED * sampled.loop_ns
    }
    if not held and not grown:
        return None
    return Seen(
        evidence=[
            *(evidence(f"samples under {text}", share, "share") for text, share in held.items()),
            *(evidence(f"throttled by {name} during the loop", ns, "ns") for name, ns in grown.items()),
            evidence("mean SM clock", sampled.mean("sm_clock_mhz"), "MHz"),
            evidence("highest SM clock", sampled.sm_clock_max_mhz, "MHz"),
        ],
    )


def hidden_idleness(case: Case) -> Seen | None:
    """N2: utilisation near 100 % while the tensor pipe, and so the power draw, is low."""
    sampled = case.nvml
    if sampled is None:
        return None
    utilization, draw_mw = sampled.mean("utilization"), sampled.mean("power_mw")
    if utilization is None or utilization < UTILIZATION:
        return None
    power = draw_mw / sampled.power_limit_mw if draw_mw is not None and sampled.power_limit_mw else None
    tensor = sampled.tensor_active
    if not ((power is not None and power < POWER_SHARE) or (tensor is not None and tensor < TENSOR)):
        return None
    return Seen(
        evidence=[
            evidence("utilisation, as nvidia-smi shows it", utilization / 100, "share"),
            evidence("power draw, of the limit", power, "share"),
            evidence("tensor pipe active", tensor, "share"),
        ],
        severity="info",
    )


def memory_full(case: Case) -> Seen | None:
    """N3: the allocator works in steady state, or tensors travel to the host and back.

    A trace that is one window holds the start of a program, where every allocator asks the device for memory.
    """
    memory = case.recording.memory if case.recording else None
    steady = case.analysis.marks.names != ("trace",)
    allocating = case.step.ns(cause="allocator")
    copies = [k for k in case.kernels if k.role == "copy" and ("HtoD" in k.name or "DtoH" in k.name)]
    moving = sum(k.total_ns for k in copies if k.phase != "other")  # batches and losses travel outside the phases
    reserved = memory.reserved_bytes if memory else None
    total = memory.total_bytes if memory else None
    full = reserved / total if reserved and total else None
    retries = memory.allocator_retries if memory else None
    signs = (
        full is not None and full >= FULL,
        bool(retries),
        case.analysis.on_gpu and steady and allocating > ALLOCATOR_SHARE * case.wall_ns,
        case.analysis.on_gpu and moving > COPY_SHARE * case.busy_ns > 0,
    )
    if not any(signs):
        return None
    return Seen(
        evidence=[
            evidence("reserved memory, of the device's", full, "share"),
            evidence("allocator retries", retries, "count"),
            evidence("time the device waited for the allocator", allocating, "ns"),
            evidence("time of copies between host and device inside the passes", moving, "ns"),
        ],
        saved=worth(case, idle("allocator")),
        title=None if any(signs[:2]) else _title_of(signs[2]),
        spent_ns=allocating + moving * signs[3],
        values={"allocates": any(signs[:3]), "moves": signs[3], "full": any(signs[:2])},
    )


def _title_of(allocating: bool) -> str:
    """What a step does whose memory is not known to be full."""
    return "The step waits for device memory" if allocating else "Tensors travel between host and device in the step"


POWER_FINDINGS = (
    Rule("N1", POWER, throttled, (remedies.EQUAL_CLOCKS,), thresholds={"share": THROTTLED}),
    Rule(
        "N2",
        POWER,
        hidden_idleness,
        (remedies.READ_BUSY,),
        thresholds={"utilization": UTILIZATION / 100, "power": POWER_SHARE, "tensor": TENSOR},
    ),
    Rule(
        "N3",
        POWER,
        memory_full,
        (remedies.EXPANDABLE, remedies.STAY, remedies.SMALLER_BATCH),
        thresholds={"full": FULL, "allocator": ALLOCATOR_SHARE, "copies": COPY_SHARE},
        explained_by=(WEIGHT_COPIES, SPILLED),
    ),
    WEIGHT_COPIES,
    SPILLED,
)
