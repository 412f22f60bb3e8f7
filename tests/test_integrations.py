"""Trainers that profile themselves, and reports that show themselves in a notebook."""

import html
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from attached import FEW, NEEDED, attached_to_nothing
from peft import LoraConfig, get_peft_model
from sample_comparison import comparison
from sample_report import report
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainingArguments

import loraprof
from loraprof.integrations import notebook
from loraprof.integrations.transformers import ProfileCallback
from loraprof.report.html import to_html
from loraprof.report.terminal.render import to_text


@pytest.fixture(autouse=True)
def detached(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with attached_to_nothing(monkeypatch):
        yield


def trained(place: Path, callback: ProfileCallback, **changes: Any) -> int:
    """The steps that a Trainer makes of the fifteen it may."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    base = LlamaForCausalLM(LlamaConfig(vocab_size=64, **sizes))
    model = get_peft_model(base, LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    data = [{"input_ids": row, "labels": row} for row in torch.randint(64, (60, 8))]
    options = {"max_steps": 15, "save_strategy": "no", "report_to": [], "use_cpu": True, "disable_tqdm": True}
    arguments = TrainingArguments(output_dir=str(place), per_device_train_batch_size=2, **{**options, **changes})
    trainer = Trainer(model=model, args=arguments, train_dataset=data, callbacks=[callback])
    trainer.train()
    return int(trainer.state.global_step)


def test_a_transformers_trainer_stops_with_a_recording(tmp_path: Path) -> None:
    p = loraprof.profile(tmp_path / "x.loraprof", **FEW)
    steps = trained(
        tmp_path,
        ProfileCallback(p),
        gradient_accumulation_steps=2,
        gradient_checkpointing=True,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        max_grad_norm=0.0,
    )
    assert steps == NEEDED
    found = p.recording.workload
    assert (found.checkpointing, found.grad_clip, found.micro_batches) == ("non-reentrant", False, 2)
    assert found.tokens_per_step == 2 * 2 * 8
    assert any(part.phase == "recompute" for part in p.report.steps[0].partition)


def test_a_transformers_trainer_may_go_on(tmp_path: Path) -> None:
    p = loraprof.profile(tmp_path / "x.loraprof", **FEW)
    assert trained(tmp_path, ProfileCallback(p, finish=True)) == 15
    assert p.recording.workload.checkpointing is None
    assert p.recording.workload.grad_clip is True


def test_a_training_that_is_too_short_warns(tmp_path: Path) -> None:
    p = loraprof.profile(tmp_path / "x.loraprof", **FEW)
    with pytest.warns(UserWarning, match=f"needs {NEEDED} optimizer steps, 3 were seen"):
        trained(tmp_path, ProfileCallback(p), max_steps=3)
    assert p.path is None


@pytest.mark.stacks
@pytest.mark.parametrize("finish", [False, True])
def test_a_lightning_trainer(tmp_path: Path, finish: bool) -> None:
    lightning = pytest.importorskip("lightning.pytorch", reason="pip install 'loraprof[lightning]'")
    from loraprof.integrations.lightning import ProfileCallback as Callback

    class Model(lightning.LightningModule):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(8, 32), nn.GELU(), nn.Linear(32, 8))

        def training_step(self, batch: torch.Tensor, index: int) -> torch.Tensor:
            return nn.functional.mse_loss(self.net(batch), batch)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.AdamW(self.parameters())

    p = loraprof.profile(tmp_path / "x.loraprof", **FEW)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    options = {"accelerator": "cpu", "gradient_clip_val": 1.0, "accumulate_grad_batches": 2, "max_epochs": 1}
    trainer = lightning.Trainer(**quiet, **options, enable_model_summary=False, callbacks=[Callback(p, finish)])
    trainer.fit(Model(), torch.utils.data.DataLoader(torch.randn(60, 8), batch_size=2))  # type: ignore[arg-type]
    assert trainer.global_step == (15 if finish else NEEDED)
    assert (p.recording.workload.micro_batches, p.recording.workload.grad_clip) == (2, True)
    assert p.recording.workload.missing_gradients == []


@pytest.mark.stacks
def test_a_lightning_trainer_that_fails_is_left(tmp_path: Path) -> None:
    pytest.importorskip("lightning.pytorch", reason="pip install 'loraprof[lightning]'")
    from loraprof.integrations.lightning import ProfileCallback as Callback

    p = loraprof.profile(tmp_path / "x.loraprof", **FEW).start()
    with pytest.warns(UserWarning, match="0 were seen"):
        Callback(p).on_exception(None, None, RuntimeError())


def test_a_notebook_shows_the_page_in_a_frame() -> None:
    pytest.importorskip("IPython", reason="pip install 'loraprof[notebook]'")
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    try:
        assert loraprof.Report is type(report())  # any public name will do
        for shown in (report(), comparison()):
            data, _ = shell.display_formatter.format(shown)
            assert data["text/plain"] == to_text(shown).decode().rstrip()
            assert data["text/html"] == notebook.frame(shown)
    finally:
        InteractiveShell.clear_instance()
    loraprof.Report  # noqa: B018  # IPython is loaded, but no shell runs


def test_the_frame_holds_the_page_and_nothing_else() -> None:
    frame = notebook.frame(report())
    before, page, after = frame.split('"', 2)
    assert before == "<iframe srcdoc="
    assert html.unescape(page).encode() == to_html(report())
    assert after.count("<") == 1  # the closing tag


@pytest.mark.slow
def test_a_cell_can_be_profiled(tmp_path: Path) -> None:
    pytest.importorskip("IPython", reason="pip install 'loraprof[notebook]'")
    from IPython.core.interactiveshell import InteractiveShell

    shell = InteractiveShell.instance()
    cell = """
import torch
layer = torch.nn.Linear(64, 64)
optimizer = torch.optim.SGD(layer.parameters())
for _ in range(40):
    layer(torch.ones(8, 64)).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
"""
    try:
        loraprof.load_ipython_extension(shell)
        made = shell.run_cell_magic("loraprof", str(tmp_path / "cell.loraprof"), cell)
        assert made.source.kind == "recording"
        assert made.timing.unprofiled.steps > 2
        with pytest.raises(ZeroDivisionError):
            shell.run_cell_magic("loraprof", str(tmp_path / "failed.loraprof"), "1 / 0")
        assert not (tmp_path / "failed.loraprof").exists()
    finally:
        InteractiveShell.clear_instance()
