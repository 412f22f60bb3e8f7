"""What ran here? Software versions and the allow-listed environment variables.

Only the variables named below are stored, whatever else the environment holds: none of them carries a path, a
host name or a secret.
"""

import importlib.metadata
import os
import platform
from typing import Final

import torch

from loraprof.model.recording import Environment

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
    "nvidia-cudnn-cu12",
    "nvidia-cudnn-cu13",
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


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _number(variable: str, default: int) -> int:
    text = os.environ.get(variable, "")
    return int(text) if text.isdigit() else default
