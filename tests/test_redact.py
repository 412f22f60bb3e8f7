"""Nothing that a person chose is left, whatever field it stood in, and the figures are the same."""

import gzip
import itertools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import reference
from recordings import trace_bytes, write_recording
from redaction import numbers
from reports import diagnosed, real

import loraprof
from loraprof.cli.app import run
from loraprof.model.recording import Nvml, Recording
from loraprof.store.kineto.events import DEVICE_CODES, HOST_CODES
from loraprof.store.recordings import load_source
from loraprof.store.redaction.copy import redacted_copy
from loraprof.store.redaction.recording import RULES, redacted
from loraprof.store.redaction.trace import redact_events, redact_value
from loraprof.store.redaction.words import Pseudonyms
from loraprof.text import without_secrets

REFERENCE = Path(__file__).parents[1] / "profiles" / "recordings"
PLANTED = [
    *("plantedperson", "PLANTEDTOKEN9", "hf_PlantedAbC123xyz", "/home/plantedperson/secretproj/train.py"),
    *("s3://key:PLANTED@bucket/x", "planted-host:29500", "192.0.2.3", "\\\\planted-srv\\share", "~planted/x"),
    *("planted@example.com", "deadbeefcafe0123456789", "GPU-3f2a-PLANTED", "plänted", "a/planted dir/x.py(3): main"),
]  # fmt: skip
LEFT = re.compile(
    r"plant|pl.nted|person|secretproj|hf_|abc123|deadbeef|3f2a|s3:|bucket|29500|192\.0|srv|share|example|train\.py|dir",
    re.IGNORECASE,
)


def contents(folder: Path) -> Iterator[str]:
    for path in folder.iterdir():
        data = path.read_bytes()
        yield path.name + (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode()


def planted(value: Any, secrets: Iterator[str], kept: tuple[str, ...] = ("schema", "created", "mask")) -> Any:
    """The document with something of somebody's in the place of every text."""
    match value:
        case str():
            return next(secrets)
        case list():
            return [planted(inner, secrets) for inner in value]
        case dict():
            return {key: inner if key in kept else planted(inner, secrets) for key, inner in value.items()}
        case _:
            return value


def full(document: dict[str, Any]) -> dict[str, Any]:
    """With something in every table that a good recording may leave empty."""
    document["environment"] |= {"variables": {"CUDA_VISIBLE_DEVICES": "x"}, "host": "x", "launch": "x", "machine": "x"}
    document["device"] |= {"uuid": "x", "driver": "x"}
    document["workload"] |= {"argv": ["x"] * 20, "options": {"run": "x"}, "missing_gradients": ["x", "x"]}
    document["workload"] |= {"optimizer_flags": {"fused": "x"}, "optimizer": "x", "arm": "x", "checkpointing": "x"}
    document |= {"notes": ["x"] * len(PLANTED), "graph_nodes": {"7": "x"}, "adapter_ops": [[0, "x", [None]]]}
    call = {"module": 0, "query": [1], "key": [1], "value": [1], "dtype": "x", "mask": "none", "said": "x"}
    document |= {"attention": [call] * 4, "repeated": [{"module": 0, "op": "x", "count": 1, "modules": 2}]}
    document["compilation"] = {
        "passes": [],
        "recompile_reasons": ["x"],
        "break_reasons": ["x"],
        "notes": ["x"],
        "graphs": [{"region": "x", "backward": False, "root": -1, "calls": [["x", [[-1, "x", -1, 1]]]]}],
    }
    return document


@pytest.mark.parametrize("turn", range(len(PLANTED)))
def test_no_text_of_a_recording_is_left(turn: int) -> None:
    secrets = itertools.cycle(PLANTED[turn:] + PLANTED[:turn])
    document = json.loads((REFERENCE / "h100-sxm" / "minimind-26m.loraprof" / "recording.json").read_bytes())
    recording = msgspec.convert(planted(full(document), secrets), Recording, strict=False)
    clean = msgspec.json.encode(redacted(recording, Pseudonyms())).decode()
    for field in msgspec.structs.fields(Recording):  # texts of values; names of fields are ours
        clean = clean.replace(f'"{field.name}":', "")
    assert not LEFT.search(clean), LEFT.search(clean)


def test_no_key_of_a_table_is_left() -> None:
    document = json.loads((REFERENCE / "h100-sxm" / "minimind-26m.loraprof" / "recording.json").read_bytes())
    for table in ("packages", "variables"):
        document["environment"][table] = dict.fromkeys(PLANTED, "1")
    document["workload"] |= {"options": dict.fromkeys(PLANTED, 1), "optimizer_flags": dict.fromkeys(PLANTED, True)}
    document["overhead_ns"] = dict.fromkeys(PLANTED, 1.0)
    clean = msgspec.json.encode(redacted(msgspec.convert(document, Recording, strict=False), Pseudonyms())).decode()
    assert not LEFT.search(clean), LEFT.search(clean)


def test_samples_say_why_in_nobodys_words() -> None:
    keys = dict.fromkeys(PLANTED, 1)
    texts = dict(zip(PLANTED, PLANTED, strict=True))
    nvml = Nvml(uuid=PLANTED[0], driver=PLANTED[1], steps=1, loop_ns=1, samples=[], violations_ns=keys, missing=texts)
    clean = msgspec.json.encode(redacted(nvml, Pseudonyms())).decode()
    assert not LEFT.search(clean)


@pytest.mark.parametrize("secret", PLANTED)
def test_no_field_of_a_trace_is_left(secret: str) -> None:
    args: dict[str, Any] = dict.fromkeys(
        ("kernel_file", "host", "x", secret, "Process Group Name", "dtype", "grid", "Rank"), secret
    )
    args |= {"Input type": [secret, "float"], "Concrete Inputs": [secret], "Input Dims": [secret], "stream": [secret]}
    common = {"name": secret, "pid": secret, "tid": secret, "ts": 1, "dur": 1, "id": secret, secret: secret}
    events: list[Any] = [common | {"ph": "X", "cat": cat, "args": args} for cat in (*HOST_CODES, *DEVICE_CODES)]
    events += [common | {"ph": ph, "args": {"name": secret, "labels": secret}} for ph in ("M", "i", "C", "s", secret)]
    events += [secret, [secret], {secret: secret}, {"ph": "X", "args": secret, "cat": secret, "ts": secret}]
    events += [{"ph": "X", "cat": "cpu_op", "name": [secret, {"a": secret}], "ts": {"a": secret}}]
    names = Pseudonyms()
    clean = redact_events(names)(msgspec.json.encode(events)).decode()
    assert not LEFT.search(clean.replace("Global rank stride", "")), LEFT.search(clean)
    top = redact_value(names)
    for value in (secret, [secret], {"a": secret}, [{"id": 0, "name": secret, "uuid": secret, secret: 1}]):
        for key in (secret, "traceName", "deviceProperties", "distributedInfo", "displayTimeUnit", "cupti_version"):
            assert not LEFT.search((top(key, msgspec.json.encode(value)) or b"").decode())
    info = {"backend": secret, "master": secret, "pg_config": [{"pg_name": secret, "pg_desc": secret, "pg_size": 1}]}
    assert not LEFT.search((top("distributedInfo", msgspec.json.encode(info)) or b"").decode())


def test_what_everybody_knows_stays() -> None:
    names = Pseudonyms()
    for name in (
        "aten::_scaled_dot_product_flash_attention",
        "void at::native::vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>, std::array<char*, 3> >",
        "ampere_bf16_s16816gemm_bf16_128x64_ldg8_f2f_stages_32x6_tn",
        "autograd::engine::evaluate_function: AddmmBackward0",
        "ProfilerStep#12",
        "Optimizer.step#AdamW.step",
        "enumerate(DataLoader)#_SingleProcessDataLoaderIter.__next__",
        "loraprof::m17",
        "nn.Module: LlamaDecoderLayer_3",
        "triton_poi_fused_add_mul_3",
    ):
        assert names.name(name) == name
    for path in ("base_model.model.model.layers.0.self_attn.q_proj.lora_A.default", "lm_head", ""):
        assert names.path(path) == path
    assert names.device("NVIDIA H100 80GB HBM3") == "NVIDIA H100 80GB HBM3"
    assert names.version("2.11.0+cu130") == "2.11.0+cu130"


def closed(kind: Any, place: str = "") -> Iterator[tuple[str, str]]:
    """Every text that a type allows where it allows only some, with its place."""
    match kind:
        case msgspec.inspect.LiteralType(values=values):
            yield from ((place, value) for value in values if isinstance(value, str))
        case msgspec.inspect.StructType(cls=cls, fields=fields):
            for field in fields:
                inner = place if cls.__struct_config__.array_like else f"{place}.{field.encode_name}".lstrip(".")
                yield from closed(field.type, inner)
        case msgspec.inspect.UnionType(types=kinds) | msgspec.inspect.TupleType(item_types=kinds):
            for inner_kind in kinds:
                yield from closed(inner_kind, place)
        case msgspec.inspect.ListType(item_type=inner_kind) | msgspec.inspect.VarTupleType(item_type=inner_kind):
            yield from closed(inner_kind, place)
        case _:
            return


def test_words_of_closed_sets_stay() -> None:
    """A pseudonym in their place could not be read."""
    found = list(closed(msgspec.inspect.type_info(Recording)))
    assert {"sites.how", "adapter_ops", "attention.mask", "workload.trainers"} <= {place for place, _ in found}
    assert [(place, RULES[place](Pseudonyms(), text)) for place, text in found] == found


@pytest.mark.parametrize("way", ["name", "known", "cls", "path", "device", "version", "origin", "platform", "place"])
@pytest.mark.parametrize(
    "secret",
    [
        *("415-555-1234", "+1 (415) 555 1234", "4111 1111 1111 1111", "078-05-1120", "1985-03-12", "12 34 56 78 90"),
        *("00:1b:44:11:3a:b7", "fe80::1ff:fe23:4567:890a", "550e8400-e29b-41d4-a716-446655440000", "٣٤٥٦"),
        *("AKIAIOSFODNN7EXAMPLE", "dGhpc2lzYXNlY3JldA==", "s3cr3t", "data/model/train.py:42", "~/max", "run@host"),
    ],
)
def test_what_people_number_with_and_tokens_are_no_words(secret: str, way: str) -> None:
    clean = getattr(Pseudonyms(), way)(*(("value",) if way == "known" else ()), secret)
    assert not [part for part in re.findall(r"\w{3,}", secret) if part in clean]


@pytest.mark.parametrize(
    "chip",
    [
        *("AMD EPYC 9V74 96-Core Processor", "Intel(R) Xeon(R) Platinum 8480C", "NVIDIA GeForce RTX 4090"),
        *("AMD Instinct MI300X", "Intel(R) Xeon(R) CPU E5-2690 v4 @ 2.60GHz", "NVIDIA H100 80GB HBM3 MIG 1g.10gb"),
    ],
)
def test_chips_keep_their_names(chip: str) -> None:
    assert Pseudonyms().device(chip) == chip


def test_pseudonyms_are_stable_and_keep_the_structure() -> None:
    names = Pseudonyms()
    assert names.path("acme.layers.0.acme_attn") == "module_1.layers.0.module_2_attn"
    assert names.path("acme.x1") == "module_1.module_3"
    assert names.name("acmeLinear_3") == names.name("acmeLinear_3") != names.name("otherLinear_3")
    made = names.name("acme_gemm_kernel")
    assert re.fullmatch(r"x\d+_gemm_kernel", made)
    assert names.name(made) != made  # one that only looks like a pseudonym
    assert names.name("mylora").endswith("lora")


def test_numbers_stay_to_the_last_digit() -> None:
    text = b'[{"ph":"X","cat":"cpu_op","name":"aten::mm","ts":4483781115872.905,"dur":1.50,"pid":1,"tid":"1"}]'
    assert b'"ts":4483781115872.905,"dur":1.50' in redact_events(Pseudonyms())(text)


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(REFERENCE.glob("*/*.loraprof")), ids=lambda p: p.stem)
def test_the_figures_of_a_recording_are_the_same(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "out.loraprof"
    assert run(["export", str(path), "--to", "recording", "-o", str(copy), "--redact", "--quiet"]) == 0
    assert numbers(loraprof.diagnose(copy)) == numbers(reference.job(path).report)


@pytest.mark.parametrize(
    "name", ["mi300_vllm_piecewise_hipgraph", "rtx2080ti_linear_train", "a100_resnet_ddp_train", "h100_bert_small"]
)
def test_the_figures_of_a_trace_are_the_same(name: str, tmp_path: Path) -> None:
    path = real(name)
    assert run(["export", str(path), "--to", "trace", "-o", str(tmp_path / "x.json.gz"), "--redact", "--quiet"]) == 0
    assert numbers(loraprof.diagnose(tmp_path / "x.json.gz")) == numbers(diagnosed(path))


def test_names_of_files_are_not_handed_on(tmp_path: Path) -> None:
    place = write_recording(tmp_path / "plantedperson.loraprof")
    (tmp_path / "out").mkdir()
    copy = redacted_copy(load_source(place), tmp_path / "out")
    assert not LEFT.search(str(copy.path))
    (tmp_path / "planted.json").write_bytes(trace_bytes())
    for form in ("json", "html", "markdown"):
        target = str(tmp_path / f"x.{form}")
        assert run(["export", str(tmp_path / "planted.json"), "--to", form, "-o", target, "--redact", "--quiet"]) == 0
        assert "planted" not in Path(target).read_text()


@pytest.mark.parametrize(
    ("words", "kept"),
    [
        (["t.py", "--hub_token", "hf_x", "--lr", "1"], ["t.py", "--hub_token", "***", "--lr", "1"]),
        (["--token=a=b", "--api-key=x", "--wandbKey", "x"], ["--token=***", "--api-key=***", "--wandbKey", "***"]),
        (["--max-tokens", "5", "--tokenizer", "x"], ["--max-tokens", "5", "--tokenizer", "x"]),
        (["--data", "s3://k:S@b/x", "https://h/x?sig=S"], ["--data", "s3://***@b/x", "https://h/x?***"]),
        (["hf_abcdefghij123", "db.password=x", "-p", "x"], ["***", "db.password=***", "-p", "x"]),
        (["--password", "--fast"], ["--password", "--fast"]),
    ],
)
def test_secrets_of_a_command_line(words: list[str], kept: list[str]) -> None:
    assert without_secrets(words) == kept


@pytest.mark.slow
def test_profile_redacts_what_it_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plantedscript.py").write_text(
        "import torch\nw = torch.nn.Linear(4, 4)\no = torch.optim.SGD(w.parameters(), 0.1)\n"
        "for _ in range(60):\n    w(torch.ones(2, 4)).sum().backward(); o.step(); o.zero_grad()\n"
    )
    monkeypatch.chdir(tmp_path)
    command = ["profile", "--redact", "--record", "r.loraprof", "--quiet", "plantedscript.py", "--run", "plantedrun"]
    assert run(command) == 0
    assert not any("planted" in text for text in contents(tmp_path / "r.loraprof"))
