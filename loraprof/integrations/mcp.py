"""Which tools does an agent get over the Model Context Protocol? loraprof's verbs, with their answers in short.

A tool is a command line of the same name; nothing is computed here and torch is not loaded. The server's instructions
are the skill that the package ships.
"""

import re
from collections.abc import Sequence
from typing import Annotated, Final

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations
from pydantic import Field

from loraprof import __version__
from loraprof.errors import MEANINGS, UsageError
from loraprof.integrations.tool_process import failure, run, succeeded
from loraprof.report.skill import skill_text

AGENT: Final = "--format=agent"
READING: Final = ToolAnnotations(read_only_hint=True, open_world_hint=False)
RUNNING: Final = ToolAnnotations(read_only_hint=False, destructive_hint=False)
OPTION: Final = re.compile(r"(?<!\S)--([a-z][a-z-]+)")
Option = str | int | float | bool | None

TARGET: Final = (
    "SCRIPT.py and its arguments; or -m, a module and its arguments; or a built-in workload and its options, "
    "as in ['tiny-llama-cpu', '--rank', '8']"
)
Folder = Annotated[str | None, Field(description="Working directory of the script")]
Budget = Annotated[str, Field(description="Time for all of it: 90s, 10m")]


async def profile(
    context: Context,
    target: Annotated[list[str], Field(description=f"{TARGET}; or -- and a launcher's whole command")],
    record: Annotated[str | None, Field(description="The recording to write, NAME.loraprof")] = None,
    steps: Annotated[int | None, Field(description="Steps under the profiler, 3 if left out", ge=1)] = None,
    timed: Annotated[int | None, Field(description="Steps timed before that, 10 if left out", ge=1)] = None,
    force: Annotated[bool, Field(description="Overwrite a recording of that name")] = False,
    folder: Folder = None,
) -> str:
    """Run a training script until one step is recorded, and say where its time goes and what would save some."""
    given = _options(record=record, steps=steps, timed=timed, force=force)
    return await _tool(["profile", AGENT, *given, *_target(target, "-m", "--")], context, folder)


async def report(
    context: Context, path: Annotated[str, Field(description="A recording, or a PyTorch profiler trace, or its URL")]
) -> str:
    """Analyse a recording or a trace: where the step's time goes and what would save some."""
    return await _tool(["report", AGENT, "--", path], context)


async def explain(
    context: Context, id: Annotated[str | None, Field(description="L2, H1, ...; or a word of a report")] = None
) -> str:
    """A cause with its signature, remedies and sources, or a word; without an id, all causes."""
    return await _tool(["explain", "--", *([id] if id else [])], context)


async def compare(
    context: Context,
    target: Annotated[list[str], Field(description=f"Recordings, the first is the base; to measure arms: {TARGET}")],
    arms: Annotated[str | None, Field(description="Of a script or workload: full,frozen,lora")] = None,
    budget: Annotated[str | None, Field(description="Time to measure arms: 60s, 2m")] = None,
    fail_on: Annotated[str | None, Field(description="A limit, as in slower>3%; exit code 3 where missed")] = None,
    allow_different: Annotated[bool, Field(description="Recordings of different workloads")] = False,
    folder: Folder = None,
) -> str:
    """Compare recordings, or measure arms of one program against each other, interleaved."""
    given = _options(arms=arms, budget=budget, fail_on=fail_on, allow_different=allow_different)
    return await _tool(["compare", AGENT, *given, *_target(target, "-m")], context, folder)


async def fix(
    context: Context,
    target: Annotated[list[str], Field(description=f"{TARGET}; or a recording of either")],
    budget: Budget = "10m",
    only: Annotated[str | None, Field(description="These findings or remedies alone: L2,fused-optimizer")] = None,
    other_training: Annotated[bool, Field(description="Also remedies that change what is trained")] = False,
    folder: Folder = None,
) -> str:
    """Apply every remedy that fits to the running program, and measure each against it, with its loss."""
    given = _options(budget=budget, only=only, also="other-training" if other_training else None)
    return await _tool(["fix", AGENT, *given, *_target(target, "-m")], context, folder)


async def estimate(
    context: Context,
    model: Annotated[str, Field(description="A built-in workload, or a Hugging Face config.json or its folder")],
    gpu: Annotated[str, Field(description="h100-sxm, rtx-4090, ...; all for a table")] = "all",
    tokens: Annotated[int | None, Field(description="Per micro-batch: batch times length")] = None,
    batch: Annotated[int | None, Field(description="Sequences per micro-batch")] = None,
    rank: Annotated[int | None, Field(description="Of the adapters")] = None,
    targets: Annotated[str | None, Field(description="Adapted layers: all, qv, or q_proj,v_proj")] = None,
    dtype: Annotated[str | None, Field(description="Of the base model: bf16, fp16, fp32, fp8")] = None,
    quantized: Annotated[str | None, Field(description="Of the frozen weights: none, nf4")] = None,
    gpus: Annotated[int | None, Field(description="How many train together")] = None,
    parallel: Annotated[str | None, Field(description="How: ddp, fsdp, zero3")] = None,
) -> str:
    """Full, frozen and LoRA step on a GPU that is not here, from shapes and data sheets; nothing is run."""
    shapes = _options(tokens=tokens, batch=batch, rank=rank, targets=targets, dtype=dtype)
    job = _options(quantized=quantized, gpus=gpus, parallel=parallel)
    return await _tool(["estimate", AGENT, f"--gpu={gpu}", *shapes, *job, "--", model], context)


def server() -> MCPServer:
    """All tools, not yet running."""
    made = MCPServer("loraprof", version=__version__, instructions=instructions(), log_level="WARNING")
    for reading in (report, explain, estimate):
        made.add_tool(reading, structured_output=False, annotations=READING)
    for running in (profile, compare, fix):
        made.add_tool(running, structured_output=False, annotations=RUNNING)
    return made


def instructions() -> str:
    """The skill without its front matter."""
    body = skill_text().split("---\n", 2)[2].strip()
    return f"Each tool runs the command of its name; paths are best absolute.\n\n{body}"


def _options(**given: Option) -> list[str]:
    """``--name=value`` each, so that no value is read as an option."""
    named = {name.replace("_", "-"): value for name, value in given.items() if value not in (None, False)}
    return [f"--{name}" if value is True else f"--{name}={value}" for name, value in named.items()]


def _target(words: Sequence[str], *leading: str) -> Sequence[str]:
    if words and words[0].startswith("-") and words[0] not in leading:
        raise ToolError(_refused(UsageError(f"{words[0]}: a target begins with its name, options follow")))
    return words


async def _tool(words: Sequence[str], context: Context, folder: str | None = None) -> str:
    """What the command writes; raises ToolError, one line, where it has no answer."""
    count = 0

    async def progress(line: str) -> None:
        nonlocal count
        count += 1
        await context.report_progress(count, message=line)

    try:
        ended = await run(words, folder, progress)
    except UsageError as error:
        raise ToolError(_refused(error)) from None
    if not succeeded(ended):
        raise ToolError(_as_fields(failure(ended)))
    return ended.out if not ended.code else f"{ended.out}{_as_fields(failure(ended))}\n"


def _as_fields(said: str) -> str:
    """Options by the names that the tools have for them."""
    return OPTION.sub(lambda found: found[1].replace("-", "_"), said)


def _refused(error: UsageError) -> str:
    return f"exit code {error.exit_code} ({MEANINGS[error.exit_code]}): {error.message}"
