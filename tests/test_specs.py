"""Presets: found, decoded, overridden, and refused with the name of what is wrong."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from loraprof.errors import InputError, UsageError
from loraprof.store import specs
from loraprof.store.specs import changed_config, default_workload, list_workloads, load_workload

PRESETS = {
    "tiny-llama-cpu",
    "gpt2-xl",
    "tinyllama-1.1b",
    "llama-3.2-1b",
    "llama-3.2-3b",
    "llama-3-8b",
    "qwen2.5-0.5b",
    "roberta-base",
    "resnet18",
    "minimind-26m",
    "opt-125m",
}


def write_preset(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Make ``folder`` the profiles folder, with one preset named "mine"."""
    (folder / "workloads").mkdir()
    (folder / "workloads" / "mine.toml").write_text(text)
    monkeypatch.setattr(specs, "profiles_dir", lambda: folder)


HEAD = 'family = "llama"\nsummary = "s"\n'


def test_every_preset_loads_under_its_file_name() -> None:
    assert {spec.name for spec in list_workloads()} == PRESETS
    assert {default_workload("cpu"), default_workload("cuda")} < PRESETS


def test_overrides_convert_and_keep_the_rest() -> None:
    plain = load_workload("gpt2-xl")
    changed = load_workload("gpt2-xl", {"rank": "4", "targets": "c_attn,c_fc", "clip": None, "config.n_layer": 3})
    assert (changed.rank, changed.targets, changed.clip) == (4, ("c_attn", "c_fc"), None)
    assert changed.config["n_layer"] == 3
    assert changed.config["n_embd"] == plain.config["n_embd"] == 1600
    assert load_workload("gpt2-xl").config["n_layer"] == 48


def test_all_linear_is_no_target_list() -> None:
    assert load_workload("roberta-base").targets == ("query", "value")
    assert load_workload("roberta-base", {"targets": "all-linear"}).targets == ()


def test_unknown_workload_names_the_closest() -> None:
    with pytest.raises(UsageError) as caught:
        load_workload("gpt2-xxl")
    assert caught.value.hint == "did you mean 'gpt2-xl'?"


@pytest.mark.parametrize(
    ("overrides", "word"),
    [
        ({"rnk": 4}, "rnk"),
        ({"config.n_layers": 4}, "config.n_layers"),
        ({"name": "mine"}, "'name'"),
        ({"rank": "many"}, "`rank`"),
        ({"rank": 0}, "`rank`"),
        ({"layers": 0}, "`layers`"),
        ({"dropout": 1.0}, "`dropout`"),
        ({"clip": 0.0}, "`clip`"),
        ({"dtype": "float8"}, "`dtype`"),
        ({"seq": 1025}, "`seq` 1025 is longer than the model's 1024 positions (`config.n_positions`)"),
        ({"config.n_head": "0"}, "`config.n_head` must be at least 1, got 0"),
        ({"seq": "\udcff"}, "`seq` is no text: '\\udcff'"),
        ({"targets": "q_proj,\ud800"}, "`targets` is no text"),
        ({"config.n_head": "two"}, "`config.n_head` takes int, not 'two'"),
    ],
)
def test_bad_override_is_a_usage_error_that_names_it(overrides: dict[str, object], word: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_workload("gpt2-xl", overrides)
    assert word in caught.value.message


def test_what_heads_share_must_divide_them_and_lists_hold_sizes() -> None:
    with pytest.raises(UsageError, match=r"`config.num_attention_heads` 8 is no multiple of .* 3"):
        load_workload("tiny-llama-cpu", {"config.num_key_value_heads": 3})
    with pytest.raises(UsageError, match=r"`config.depths` must be at least 1, got \[2, 0\]"):
        load_workload("resnet18", {"config.depths": [2, 0]})
    with pytest.raises(UsageError, match="the model's 512 positions"):
        load_workload("roberta-base", {"seq": 513})


def test_what_is_not_the_presets() -> None:
    assert changed_config(load_workload("gpt2-xl", {"rank": 4})) is None
    assert changed_config(load_workload("gpt2-xl", {"config.n_head": 7})) == "config.n_head=7"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (HEAD + "rnk = 4\n[config]\n", "unknown key `$.rnk`"),
        (HEAD + 'rank = "four"\n[config]\n', "Expected `int`, got `str` - at `$.rank`"),
        (HEAD + "[config]\nhidden_size = [[1]]\n", "$.config[...]"),
        (HEAD + "rank = 0\n[config]\n", "`rank` must be at least 1"),
        ('family = "lama"\nsummary = "s"\n[config]\n', "$.family"),
        (HEAD, "missing required field `config`"),
        ("rank = \n", "Invalid value"),
        ("rank = " + 5000 * "[", "nested too deep"),
    ],
)
def test_bad_preset_names_file_and_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, words: str) -> None:
    write_preset(tmp_path, monkeypatch, text)
    with pytest.raises(InputError) as caught:
        load_workload("mine")
    assert "mine.toml" in caught.value.message
    assert words in caught.value.message


def test_a_good_preset_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_preset(tmp_path, monkeypatch, HEAD + "rank = 7\n[config]\nhidden_size = 8\n")
    assert [(spec.name, spec.rank) for spec in list_workloads()] == [("mine", 7)]


def test_presets_load_without_torch() -> None:
    code = "import sys; from loraprof.store.specs import list_workloads as w; w(); assert 'torch' not in sys.modules"
    root = Path(__file__).resolve().parents[1]
    subprocess.run([sys.executable, "-c", code], cwd=root, check=True)


def test_a_wheel_carries_its_presets_inside(tmp_path: Path) -> None:
    """The layout of pyproject's force-include: the package alone, with ``_profiles`` in it."""
    root = Path(__file__).resolve().parents[1]
    for name in ("loraprof/errors.py", "loraprof/model", "loraprof/store"):
        copy = shutil.copytree if (root / name).is_dir() else shutil.copy
        (tmp_path / name).parent.mkdir(exist_ok=True)
        copy(root / name, tmp_path / name)
    (tmp_path / "loraprof" / "__init__.py").touch()
    shutil.copytree(root / "profiles", tmp_path / "loraprof" / "_profiles")
    code = "from loraprof.store.specs import profiles_dir, list_workloads as w; print(profiles_dir(), len(w()))"
    command = [sys.executable, "-P", "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    out = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    assert out.stdout.split() == [str(tmp_path / "loraprof" / "_profiles"), str(len(PRESETS))]


def test_strings_for_the_config_take_the_type_of_what_they_replace() -> None:
    spec = load_workload("tiny-llama-cpu", {"config.hidden_size": "256", "config.tie_word_embeddings": "true"})
    assert spec.config["hidden_size"] == 256
    assert spec.config["tie_word_embeddings"] is True
    assert load_workload("tiny-llama-cpu", {"config.rms_norm_eps": "1e-6"}).config["rms_norm_eps"] == 1e-6
    with pytest.raises(UsageError, match=r"config\.hidden_size"):
        load_workload("tiny-llama-cpu", {"config.hidden_size": "wide"})


def test_a_config_that_is_no_table_has_no_keys() -> None:
    with pytest.raises(UsageError, match=r"has no option 'config.hidden_size'"):
        load_workload("tiny-llama-cpu", {"config": 5, "config.hidden_size": 64})
