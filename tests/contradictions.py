"""Where does one number of a report contradict another? It knows bounds, not truth: silence proves little."""

from collections.abc import Iterator
from typing import Any

Json = dict[str, Any]


def contradictions(report: Json) -> Iterator[str]:
    """Of the report's JSON."""
    yield from _sums(report)
    yield from _gains(report)
    yield from _limit(report)
    yield from _measured(report)
    yield from _evidence(report)


def _now(report: Json) -> int | None:
    unprofiled = report["timing"].get("unprofiled")
    return unprofiled["median_ns"] if unprofiled else None


def _sums(report: Json) -> Iterator[str]:
    for step in report["steps"]:
        if sum(part["ns"] for part in step["partition"]) != step["wall_ns"]:
            yield f"{step['name']}: the partition does not sum to the step"
    plain, now, adapter = report.get("unprofiled"), _now(report), report.get("adapter")
    if plain and not sum(part["ns"] for part in plain["partition"]) == plain["wall_ns"] == now:
        yield "the unprofiled partition does not sum to the unprofiled median"
    verdict = report["verdict"]
    if verdict["ideal_speedup"] and (verdict["speedup_vs_full"] or 0) > 1.01 * verdict["ideal_speedup"]:
        yield "the speed-up is above the ideal one"
    if adapter and now and (adapter.get("predicted_frozen_ns") or 0) > 1.02 * now:
        yield "the step without adapters is predicted longer than the step with them"
    if adapter is None and any(finding["id"].startswith("L") for finding in report["findings"]):
        yield "findings about adapters without an adapter"


def _gains(report: Json) -> Iterator[str]:
    now = _now(report)
    for finding in report["findings"]:
        for gain in filter(None, [finding.get("gain"), *(r.get("gain") for r in finding.get("remedies", []))]):
            if not gain["low"] <= gain["speedup"] <= gain["high"]:
                yield f"{finding['id']}: the gain lies outside its interval"
            if gain["basis"] != "measured" and gain["high"] - gain["low"] < 0.01 * gain["speedup"]:
                yield f"{finding['id']}: a narrow interval on a gain that was not measured"
            if now and abs(now / max(now - gain["ns"], 1) / gain["speedup"] - 1) > 0.02:
                yield f"{finding['id']}: its ns are not its speed-up"


def _limit(report: Json) -> Iterator[str]:
    found, limit = {f["id"]: f for f in report["findings"]}, report["verdict"]["limiting_cause"]
    if limit and limit not in found:
        yield f"limited by {limit}, which is no finding"
    sure = [f for f in found.values() if f.get("gain") and f["gain"]["low"] > 1.005 and f["severity"] != "info"]
    top = max(sure, key=lambda f: f["gain"]["low"], default=None)
    named = found.get(limit)
    if top and named and top is not named and (not named.get("gain") or named["gain"]["high"] < top["gain"]["low"]):
        yield f"limited by {limit}, though {top['id']} surely gains more"


def _measured(report: Json) -> Iterator[str]:
    for kernel in report["kernels"]:
        assisted = kernel.get("note") == "L2-assisted" or not kernel["total_ns"]
        if not assisted and (kernel.get("roof_ns") or 0) > 1.03 * kernel["total_ns"]:
            yield f"faster than its roof: {kernel['name'][:60]}"
    nvml, now = report.get("nvml"), _now(report)
    energy, power = (nvml.get("energy_j_per_step"), nvml.get("power_w")) if nvml else (None, None)
    if now and energy and power and abs(energy / (power * now / 1e9) - 1) > 0.15:
        yield "the energy per step is not power times step"
    step = next((s for s in report["steps"] if s["name"] == report["reported_step"]), None)
    busy = sum(network["busy_ns"] for network in report.get("networks") or [])
    if step and busy > 1.001 * sum(part["ns"] for part in step["partition"] if part["kind"] == "busy"):
        yield "networks were busy for longer than the step"


def _evidence(report: Json) -> Iterator[str]:
    """What adapters cost is said of the same step as everything else."""
    now = _now(report)
    for finding in report["findings"]:
        for seen in finding.get("evidence", []) if now and finding["id"].startswith("L") else ():
            if seen["unit"] == "ns" and seen["value"] is not None and seen["value"] > now:
                yield f"{finding['id']}: {seen['what']}: longer than the step"
