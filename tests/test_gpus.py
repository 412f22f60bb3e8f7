"""GPU data sheets: the figures agree with each other, names resolve as they should, bad files are refused."""

from pathlib import Path

import pytest

from loraprof.errors import InputError
from loraprof.model.gpu import GpuSpec
from loraprof.store.gpus import gpu_files, load_gpu, load_gpus, match_gpu, resolve_gpu

GPUS = {spec.name: spec for spec in load_gpus()}

NAMES = {
    "Tesla T4": "T4",
    "Tesla V100-SXM2-32GB": "V100 SXM2",
    "NVIDIA GeForce RTX 2080 Ti": "RTX 2080 Ti",
    "NVIDIA GeForce RTX 4090": "RTX 4090",
    "NVIDIA A100-SXM4-80GB": "A100 80GB SXM",
    "NVIDIA A100-SXM4-40GB": "A100 40GB SXM",
    "NVIDIA A100-PG509-200": "A100 40GB SXM",
    "NVIDIA A100-PCIE-40GB": "A100 40GB PCIe",
    "NVIDIA A100 80GB PCIe": "A100 80GB PCIe",
    "NVIDIA H100 80GB HBM3": "H100 SXM",
    "NVIDIA H100 PCIe": "H100 PCIe",
    "NVIDIA H100 NVL": "H100 NVL",
    "NVIDIA H200": "H200 SXM",
    "NVIDIA H200 NVL": "H200 NVL",
    "NVIDIA GH200 480GB": "GH200 96GB",
    "NVIDIA GH200 144G HBM3e": "GH200 144GB",
    "NVIDIA B200": "B200",
    "NVIDIA A10": "A10",
    "NVIDIA A10G": "A10G",
    "NVIDIA RTX A6000": "RTX A6000",
    "NVIDIA L4": "L4",
    "NVIDIA L40S": "L40S",
    "AMD Instinct MI300X": "MI300X",
}
STRANGERS = [
    "NVIDIA L40", "NVIDIA H20", "NVIDIA GB200", "NVIDIA GH200", "NVIDIA GeForce RTX 4090 Laptop GPU",
    "NVIDIA H100 80GB HBM2e", "AMD Radeon Graphics", "",
]  # fmt: skip


def test_there_is_one_file_per_gpu() -> None:
    assert len(GPUS) == len(gpu_files()) > 20


@pytest.mark.parametrize("spec", GPUS.values(), ids=lambda s: s.name)
def test_figures_agree_with_each_other(spec: GpuSpec) -> None:
    tensor = spec.bf16_flops_per_s or spec.fp16_flops_per_s
    assert tensor is not None
    assert spec.sms * spec.flops_per_clock_sm * spec.tensor_mhz * 1e6 == pytest.approx(tensor, rel=0.013)
    lanes = 128 if spec.compute_capability in {"7.0", "7.5", "8.0"} else 256
    fp32 = spec.sms * lanes * spec.max_sm_mhz * 1e6
    assert fp32 == pytest.approx(spec.fp32_flops_per_s, rel=0.075 if spec.name == "B200" else 0.006)
    if spec.tf32_flops_per_s is not None:
        assert spec.tf32_flops_per_s == pytest.approx(tensor / 2, rel=0.023 if spec.name == "B200" else 0.012)
    if spec.fp8_flops_per_s is not None:
        assert spec.fp8_flops_per_s == pytest.approx(2 * tensor, rel=0.013)
    assert (spec.bf16_flops_per_s is None) == (float(spec.compute_capability) < 8)
    assert spec.source


@pytest.mark.parametrize(("name", "expected"), NAMES.items())
def test_driver_names(name: str, expected: str) -> None:
    assert resolve_gpu(name) == (GPUS[expected], None)


@pytest.mark.parametrize("name", STRANGERS)
def test_unknown_names_have_no_peak(name: str) -> None:
    spec, reason = resolve_gpu(name)
    assert spec is None
    assert reason == f"no data sheet for a GPU named {name!r}"


def test_contradictions_refuse_the_peak() -> None:
    assert resolve_gpu("NVIDIA H200", power_limit_w=600)[1] == (
        "'NVIDIA H200' with a limit of 600 W may be an H200 NVL"
    )
    assert match_gpu("NVIDIA H200", 150_754_820_096, 132, 700) == GPUS["H200 SXM"]
    assert match_gpu("NVIDIA A100-PG509-200", 85_000_000_000) is None
    assert match_gpu("NVIDIA A100-PG509-200", 42_480_000_000, 108) == GPUS["A100 40GB SXM"]
    assert match_gpu("NVIDIA H100 PCIe", sms=132) is None


def test_two_matches_are_ambiguous() -> None:
    specs = (GPUS["H200 SXM"], GPUS["H200 SXM"])
    assert resolve_gpu("NVIDIA H200", specs=specs) == (None, "'NVIDIA H200' is ambiguous: H200 SXM, H200 SXM")


def test_a_slice_scales_tensor_peaks_and_drops_bandwidth() -> None:
    part = match_gpu("NVIDIA A100-SXM4-40GB MIG 3g.20gb", 20_000_000_000, 42)
    assert part is not None
    assert part.sms == 42
    assert part.bf16_flops_per_s == pytest.approx(312e12 * 42 / 108)
    assert part.dram_bytes_per_s is None
    assert part.l2_bytes is None
    assert match_gpu("NVIDIA A100-SXM4-40GB MIG 3g.20gb") is None


def test_peak_follows_the_clock() -> None:
    h200 = GPUS["H200 SXM"]
    assert h200.peak("bfloat16") == 989.4e12
    assert h200.peak("bfloat16", 1980) == pytest.approx(1070.5e12, rel=1e-4)
    assert h200.peak("float32", 1980) == 67e12
    assert h200.peak("int8") is None
    assert GPUS["T4"].peak("bfloat16") is None


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("989.4e12", "989.4", r"\$\.bf16_flops_per_s = 989\.4 is not within"),
        ("bf16_flops_per_s = 989.4e12", "bf16_flops_per_s = 1979e12", r"\$\.bf16_flops_per_s = 1\.979e\+15"),
        ("4800e9", "4.8", r"\$\.dram_bytes_per_s"),
        ("tensor_mhz = 1830", "tensor_mhz = 1830000", r"\$\.tensor_mhz"),
        ("141_000_000_000", "141", r"\$\.memory_bytes"),
        ("sms = 132", 'sms = "132"', r"at `\$\.sms`"),
        ("sms = 132", "sms = 132\nbogus = 1", r"unknown field `bogus`"),
        ("sms = 132", "", r"missing required field `sms`"),
        ("'\\bH200( SXM)?$'", "'H200('", r"\$\.match"),
        ("sms = 132", "sms =", r"Invalid value"),
        ("sms = 132", "sms = " + 5000 * "[", r"nested too deep"),
    ],
)
def test_bad_files_name_their_key(tmp_path: Path, old: str, new: str, message: str) -> None:
    text = (Path(__file__).parents[1] / "profiles/gpus/h200-sxm.toml").read_text()
    assert old in text
    path = tmp_path / "x.toml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(InputError, match=message) as caught:
        load_gpu(path)
    assert str(path) in caught.value.message


def test_a_name_used_twice_is_refused(tmp_path: Path) -> None:
    text = (Path(__file__).parents[1] / "profiles/gpus/t4.toml").read_text()
    for file in ("a.toml", "b.toml"):
        (tmp_path / file).write_text(text)
    with pytest.raises(InputError, match="is used by another file"):
        load_gpus(tmp_path)
