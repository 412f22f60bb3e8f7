"""What does a kernel do, in a few words that tell it from its neighbours? From its C++ name alone.

    nvjet_sm90_tst_256x128_64x4_1x2_h_bz_coopA_NNT                       gemm nvjet 256x128 NNT
    vectorized_elementwise_kernel<4, CUDAFunctor_add<float>, ...>        elementwise add fp32
    unrolled_elementwise_kernel<direct_copy_kernel_cuda...(float)...>    elementwise copy to fp32, unrolled

A name that fits no pattern is shortened to its last part. Where two different kernels still read alike, the first part
of their names that differs is added.
"""

import re
from collections import Counter
from collections.abc import Sequence
from typing import Final

_DTYPES: Final = {
    "float": "fp32",
    "double": "fp64",
    "c10::BFloat16": "bf16",
    "__nv_bfloat16": "bf16",
    "c10::Half": "fp16",
    "__half": "fp16",
    "c10::Float8_e4m3fn": "fp8",
    "signed char": "int8",
    "unsigned char": "uint8",
    "bool": "bool",
    "int": "int32",
    "long": "int64",
}
_DTYPE = re.compile(rf"(?<![\w:])({'|'.join(map(re.escape, sorted(_DTYPES, key=len, reverse=True)))})(?=[\s,>)*])")
_ARGUMENTS = re.compile(r"\{lambda\(([^()]*)\)")
_FUNCTOR = re.compile(r"(?:CUDAFunctorOnSelf_|CUDAFunctorOnOther_|CUDAFunctor_)(\w+)|(\w+?)(?:Math)?Functor\b")
_KERNEL = re.compile(r"(\w+?)_kernel(?:_cuda|_impl)*\b")
_ADAPTORS: Final = {"Unary", "AUnary", "BUnary", "Binary", "CompositeRandomAccessor"}
_WRAPPERS: Final = {"vectorized_elementwise", "unrolled_elementwise", "elementwise", "gpu", "multi_tensor_apply"}
_GEMM_DTYPES: Final = {"f32f32": "fp32", "bf16bf16": "bf16", "f16f16": "fp16", "s": "fp32", "h": "fp16", "bf16": "bf16",
                       "f16": "fp16", "tf32": "tf32"}  # fmt: skip

LONGEST = 10_000  # characters that are read of a name


def labels(names: Sequence[str]) -> list[str]:
    """A label per name; equal names have equal labels, others do not."""
    distinct = list(dict.fromkeys(names))
    out = {name: label(name) for name in distinct}
    for text in [text for text, count in Counter(out.values()).items() if count > 1]:
        alike = [name for name in distinct if out[name] == text]
        own = [_distinctive_part(name, [n for n in alike if n != name]) for name in alike]
        for number, (name, part) in enumerate(zip(alike, own, strict=True), 1):
            out[name] = f"{text} {part if part and own.count(part) == 1 else f'#{number}'}"
    return [out[name] for name in names]


def label(name: str) -> str:
    """What a kernel does, and its dtype, tile or form.

    >>> label("nvjet_sm90_tst_256x128_64x4_1x2_h_bz_coopA_NNT")
    'gemm nvjet 256x128 NNT'
    """
    plain = name[:LONGEST].removeprefix("void ").replace("(anonymous namespace)::", "").replace("at::native::", "")
    whole = re.split(r"[<(]", plain, maxsplit=1)[0]
    head = whole.rsplit("::", 1)[-1]
    for short in (_gemm(plain), _elementwise(plain, head), _reduction(plain, head), _flash(plain)):
        if short:
            return short
    if whole == plain or not re.fullmatch(r"\w+", head):
        return name.removesuffix("_kernel")
    words = [head.removesuffix("_kernel"), _dtype(plain)]
    return " ".join(w for w in words if w)


def _gemm(plain: str) -> str:
    split = " split-k" if re.search(r"split_?k", plain, re.IGNORECASE) else ""
    if "splitKreduce" in plain:
        return "gemm split-k reduction"
    if found := re.match(r"nvjet_\w*?_(\d+x\d+)_\w*?(_bias)?_([NT]{2,3})\b", plain):
        return f"gemm nvjet {found[1]}{' bias' if found[2] else ''} {found[3]}{split}"
    if found := re.search(r"gemm_([a-z0-9]+?)_.*?_([nt]{2})_n_tilesize(\d+x\d+)", plain):
        return f"gemm {_GEMM_DTYPES.get(found[1], found[1])} {found[3]} {found[2]}{split}"
    if found := re.search(r"cutlass_\d+_(\w+?)_(?:s?\d*)?(\w*?)gemm_(?:([a-z]\w*?)_)?(\d+x\d+)\w*?_([nt]{2})", plain):
        dtype = _GEMM_DTYPES.get(found[3] or found[2], found[3] or found[2])
        return f"gemm cutlass {dtype} {found[4]} {found[5]}{split}"
    if re.search(r"gemm|Cijk_", plain) and (found := re.search(r"\d+x\d+", plain)):
        return f"gemm {re.split(r'_', plain)[0]} {found[0]}{split}"
    return ""


def _elementwise(plain: str, head: str) -> str:
    form = {"vectorized_elementwise_kernel": "", "unrolled_elementwise_kernel": ", unrolled",
            "elementwise_kernel": ", strided"}.get(head)  # fmt: skip
    if form is None and head != "multi_tensor_apply_kernel":
        return ""
    inner = plain[len(head) :]
    argument = [a for a in _ARGUMENTS.findall(inner) if a != "int"]  # which is a kernel's own index
    dtype = next((d for a in argument if (d := _dtype(f"{a},"))), "") or _dtype(inner)
    if "bfloat16_copy_kernel" in inner or "float16_copy_kernel" in inner:
        return f"elementwise copy {dtype} to {'bf16' if 'bfloat16_copy' in inner else 'fp16'}{form}"
    kind = "elementwise" if head != "multi_tensor_apply_kernel" else "foreach"
    what = _operation(inner)
    words = [kind, what, f"to {dtype}" if what == "copy" and dtype else dtype]
    return " ".join(w for w in words if w) + (form or "")


def _operation(inner: str) -> str:
    functors = [a or b for a, b in _FUNCTOR.findall(inner)]
    named = [f for f in functors if f not in _ADAPTORS]
    kernels = [k for k in _KERNEL.findall(inner) if k not in _WRAPPERS]
    word = named[0] if named else kernels[0] if kernels else ""
    scalar = " by a scalar" if {"AUnary", "BUnary"} & set(functors) else ""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", word.removeprefix("direct_")).replace("_", " ").lower() + scalar


def _reduction(plain: str, head: str) -> str:
    if head != "reduce_kernel":
        return ""
    found = re.search(r"(\w+?)(?:Ops|_functor|Functor)\b", plain[len(head) :].replace("ReduceOp<", ""))
    words = ["reduce", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", found[1]).lower() if found else "", _dtype(plain)]
    return " ".join(w for w in words if w)


def _flash(plain: str) -> str:
    if not re.search(r"flash|fmha|sdpa", plain, re.IGNORECASE):
        return ""
    way = "backward" if re.search(r"bprop|bwd|backward", plain) else "forward"
    tile = re.search(r"\d+x\d+x\d+", plain)
    return f"attention {way}{f' {tile[0]}' if tile else ''}"


def _dtype(text: str) -> str:
    found = _DTYPE.search(text)
    return _DTYPES[found[1]] if found else ""


def _distinctive_part(name: str, alike: Sequence[str]) -> str:
    """The first short part of a name that no other of them has."""
    parts, taken = re.findall(r"[A-Za-z0-9]+", name), {p for o in alike for p in re.findall(r"[A-Za-z0-9]+", o)}
    return next((p for p in parts if 1 < len(p) <= 20 and p not in taken), "")
