import json

import msgspec
import pytest
from sample_comparison import comparison
from sample_report import bare_report, empty_report, report

from loraprof.model.compare import Comparison
from loraprof.model.report import Report
from loraprof.report.json import json_parts, to_json

# The names that users rely on, section by section: a name may be added, none may go.
REPORT_NAMES = {
    "": "schema source verdict timing reported_step steps kernels modules adapter ceilings replay probes memory nvml "
    "findings closure",
    "source": "path kind device device_name torch ranks",
    "verdict": "sentence speedup_vs_full speedup_low speedup_high basis ideal_speedup limiting_cause",
    "timing": "unprofiled profiled_ns inflation tokens_per_step",
    "timing.unprofiled": "median_ns low_ns high_ns steps",
    "steps.0": "name wall_ns partition overlap launches",
    "steps.0.partition.0": "kind class cause phase role ns events",
    "steps.0.overlap.0": "over under ns",
    "steps.0.launches": "count api_median_ns latency_floor_ns turnaround_median_ns",
    "kernels.0": "name role phase module count total_ns flops min_bytes roof_ns bound",
    "modules.0": "path role busy_ns idle_ns launches",
    "adapter": "modules rank dtype busy_ns idle_ns launches min_bytes flops savings predicted_full_ns "
    "predicted_frozen_ns",
    "adapter.savings": "wgrad_ns optimizer_ns grad_clip_ns comm_ns",
    "ceilings": "gemm_flops_per_s copy_bytes_per_s launch_floor_ns turnaround_ns basis",
    "replay": "gate_error host_factor accepted",
    "probes": "enqueue_ns doubled_tokens_ns delay_slope",
    "memory": "peak_bytes reserved_bytes allocator_retries weights_bytes gradients_bytes optimizer_bytes "
    "activations_bytes",
    "nvml": "samples energy_j_per_step power_w power_limit_w sm_clock_mhz sm_clock_max_mhz utilization throttle "
    "tensor_active dram_active",
    "findings.0": "id severity title evidence remedy gain see",
    "findings.0.evidence.0": "what value unit",
    "findings.0.gain": "ns speedup low high basis",
    "closure": "ok launches_without_kernel kernels_without_launch negative_latency zero_timestamps unattributed_ns "
    "attribution_disagreements notes",
}
COMPARE_NAMES = {
    "": "schema workload device_name arms ratios noise_floor waterfall findings predicted",
    "arms.full": "median_ns mean_ns low_ns high_ns steps tokens_per_s peak_bytes trainable energy_j_per_step status "
    "reason",
    "ratios.0": "of to ratio low high verdict",
    "noise_floor": "ratio low high",
    "waterfall": "from to from_ns to_ns bars",
    "waterfall.bars.0": "key phase role cause ns count_ns duration_ns",
    "predicted": "full_over_lora error",
}


def _at(tree: object, path: str) -> object:
    for word in filter(None, path.split(".")):
        tree = tree[int(word)] if isinstance(tree, list) else tree[word]  # type: ignore[index]
    return tree


@pytest.mark.parametrize("path", REPORT_NAMES)
def test_the_report_has_the_promised_names(path: str) -> None:
    found = _at(json.loads(to_json(report())), path)
    assert isinstance(found, dict)
    assert set(REPORT_NAMES[path].split()) <= set(found)


@pytest.mark.parametrize("path", COMPARE_NAMES)
def test_the_comparison_has_the_promised_names(path: str) -> None:
    found = _at(json.loads(to_json(comparison())), path)
    assert isinstance(found, dict)
    assert set(COMPARE_NAMES[path].split()) <= set(found)


def test_schemas() -> None:
    assert json.loads(to_json(report()))["schema"] == "loraprof.report/1"
    assert json.loads(to_json(comparison()))["schema"] == "loraprof.compare/1"


def test_the_same_report_gives_the_same_bytes() -> None:
    assert to_json(report()) == to_json(report())
    assert to_json(report()).endswith(b"}\n")


@pytest.mark.parametrize("shown", [report(), bare_report(), empty_report()])
def test_a_report_comes_back_unchanged(shown: Report) -> None:
    assert msgspec.json.decode(to_json(shown), type=Report) == shown


def test_a_comparison_comes_back_unchanged() -> None:
    assert msgspec.json.decode(to_json(comparison()), type=Comparison) == comparison()


def test_what_is_unknown_is_null() -> None:
    tree = json.loads(to_json(bare_report()))
    assert [
        name for name in ("adapter", "ceilings", "memory", "nvml", "probes", "replay") if tree[name] is not None
    ] == []
    assert tree["kernels"][0]["flops"] is None


def test_a_number_that_is_not_finite_is_null() -> None:
    timing = msgspec.structs.replace(report().timing, inflation=float("nan"))
    assert json.loads(to_json(msgspec.structs.replace(report(), timing=timing)))["timing"]["inflation"] is None


@pytest.mark.parametrize("at_once", [1, 2, 256])
@pytest.mark.parametrize("shown", [report(), comparison(), bare_report()])
def test_it_is_written_a_few_elements_at_a_time(
    shown: Report | Comparison, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loraprof.report.json.AT_ONCE", at_once)
    parts = [*json_parts(shown)]
    assert b"".join(parts) == msgspec.json.format(msgspec.json.encode(shown), indent=2) + b"\n"
    lists = [value for name in shown.__struct_fields__ if isinstance(value := getattr(shown, name), list) and value]
    assert len(parts) == 2 * len(shown.__struct_fields__) + 1 + sum(-(-len(v) // at_once) for v in lists)
