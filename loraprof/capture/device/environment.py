"""What ran here? Software versions, the allow-listed environment variables, and the device.

Only the variables named below are stored, whatever else the environment holds: none of them carries a path, a
host name or a secret.
"""

import importlib.metadata
import os
import platform
import re
from pathlib import Path
from typing import Final

import torch

from loraprof.errors import MeasurementError
from loraprof.model.recording import DeviceInfo, Environment

VARIABLES: Final = (
    "ACCELERATE_MIXED_PRECISION",
    "CUDA_DEVICE_MAX_CONNECTIONS",
    "CUDA_DEVICE_ORDER",
    "CUDA_LAUNCH_BLOCKING",
    "CUDA_MODULE_LOADING",
    "CUDA_VISIBLE_DEVICES",
    "CUBLAS_WORKSPACE_CONFIG",
    "DISABLE_CUPTI_LAZY_REINIT",
    "HIP_VISIBLE_DEVICES",
    "KINETO_LOG_LEVEL",
    "KMP_AFFINITY",
    "KMP_BLOCKTIME",
    "MALLOC_ARENA_MAX",
    "MKL_NUM_THREADS",
    "NCCL_ALGO",
    "NCCL_IB_DISABLE",
    "NCCL_NVLS_ENABLE",
    "NCCL_P2P_DISABLE",
    "NCCL_PROTO",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_NUM_THREADS",
    "OMP_PROC_BIND",
    "OMP_WAIT_POLICY",
    "PYTORCH_ALLOC_CONF",
    "PYTORCH_CUDA_ALLOC_CONF",
    "PYTORCH_NO_CUDA_MEMORY_CACHING",
    "TEARDOWN_CUPTI",
    "TOKENIZERS_PARALLELISM",
    "TORCHDYNAMO_DISABLE",
    "TORCHINDUCTOR_MAX_AUTOTUNE",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
    "TORCH_BLAS_PREFER_CUBLASLT",
    "TORCH_COMPILE_DISABLE",
    "TORCH_CUDNN_V8_API_DISABLED",
    "TORCH_NCCL_AVOID_RECORD_STREAMS",
)

PACKAGES: Final = (
    "accelerate",
    "bitsandbytes",
    "deepspeed",
    "flash-attn",
    "lightning",
    "numpy",
    "nvidia-cublas",
    "nvidia-cublas-cu12",
    "nvidia-ml-py",
    "peft",
    "tensorboard",
    "torch",
    "torch-tb-profiler",
    "torchao",
    "torchvision",
    "transformers",
    "triton",
    "trl",
    "unsloth",
    "xformers",
)


def environment() -> Environment:
    """The software of this process and its allow-listed variables."""
    return Environment(
        loraprof=_version("loraprof") or "unknown",
        python=platform.python_version(),
        torch=str(torch.__version__),  # a subclass of str that msgspec refuses
        platform=platform.platform(),
        cuda=torch.version.cuda,
        packages={name: version for name in PACKAGES if (version := _version(name)) is not None},
        variables={name: os.environ[name] for name in VARIABLES if name in os.environ},
        host=platform.node() or None,
        rank=_number("RANK", 0),
        world_size=_number("WORLD_SIZE", 1),
    )


def device_info(device: torch.device) -> DeviceInfo:
    """The device that is measured. On CPU ``l2_bytes`` is the last-level cache: the last stop before memory.

    Raises MeasurementError where torch knows the device but it cannot be measured, or it is not there.
    """
    if device.type == "cpu":
        return DeviceInfo(
            kind="cpu",
            name=cpu_name(),
            memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            l2_bytes=last_level_cache_bytes(),
            cpu_threads=torch.get_num_threads(),
        )
    if device.type != "cuda":
        raise MeasurementError(
            f"{device.type} devices cannot be measured", "use --device cpu, or a machine with an NVIDIA GPU"
        )
    if not torch.cuda.is_available():
        raise MeasurementError("no CUDA device here", "loraprof doctor says what is missing; --device cpu works")
    if (device.index or 0) >= torch.cuda.device_count():
        raise MeasurementError(f"no device {device}", f"torch sees {torch.cuda.device_count()} CUDA device(s)")
    index = torch.cuda.current_device() if device.index is None else device.index
    properties = torch.cuda.get_device_properties(index)
    uuid = getattr(properties, "uuid", None)
    return DeviceInfo(
        kind="cuda",
        name=properties.name,
        index=index,
        uuid=None if uuid is None else gpu_uuid(str(uuid)),
        sms=properties.multi_processor_count,
        capability=(properties.major, properties.minor),
        memory_bytes=properties.total_memory,
        l2_bytes=getattr(properties, "L2_cache_size", None),
        driver=driver_version(),
    )


def gpu_uuid(text: str) -> str:
    """The UUID as NVML writes it; torch leaves the prefix out."""
    return text if text.startswith(("GPU-", "MIG-")) else f"GPU-{text}"


def cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """The CPU's model name, or the architecture where the system does not give one."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine() or "CPU"


def last_level_cache_bytes(root: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> int | None:
    """The largest cache that the first CPU sees, in bytes."""
    sizes = []
    for path in root.glob("index*/size"):
        found = re.fullmatch(r"(\d+)([KMG]?)", path.read_text().strip())
        if found:
            sizes.append(int(found[1]) << {"": 0, "K": 10, "M": 20, "G": 30}[found[2]])
    return max(sizes, default=None)


def driver_version(path: Path = Path("/proc/driver/nvidia/version")) -> str | None:
    """The NVIDIA kernel module's version."""
    try:
        found = re.search(r"Kernel Module[^\n]*?\s(\d+\.\d+(?:\.\d+)?)\s", path.read_text())
    except OSError:
        return None
    return found[1] if found else None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _number(variable: str, default: int) -> int:
    text = os.environ.get(variable, "")
    return int(text) if text.isdigit() else default
