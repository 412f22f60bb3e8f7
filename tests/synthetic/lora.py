"""A small transformer with or without LoRA, as a program: shapes give FLOPs and bytes, those give durations.

    ns = max(shortest kernel, flops / peak, bytes / bandwidth)          (integers, rounded down)

Variants follow the cost model: V1 is bf16 throughout, V5 an fp32 adapter without autocast (casts around it).
"""

from dataclasses import dataclass, field, replace

from loraprof.model.recording import AdapterSite, ModuleInfo, ParameterInfo
from synthetic.machine import Kernel
from synthetic.program import Module, Op, Program

BF16, FP32 = "c10::BFloat16", "float"
SIZE = {BF16: 2, FP32: 4}
COMM_STREAM = 20


@dataclass(frozen=True, slots=True)
class Shape:
    """What is trained. ``arm``: "lora", "full" or "frozen"; ``variant``: "V1" or "V5"."""

    layers: int = 2
    hidden: int = 512
    ffn: int = 1376
    tokens: int = 512
    vocab: int = 4096
    rank: int = 16
    arm: str = "lora"
    variant: str = "V1"
    dequant: bool = False
    comm_ns: int = 0  # one all-reduce per layer when > 0
    sync_in_adapter: bool = False
    checkpoint: bool = False
    flops_per_ns: int = 400_000
    bytes_per_ns: int = 2_000
    shortest_ns: int = 1_500
    host_ns: int = 1_500  # Python time before each op


@dataclass(slots=True)
class Builder:
    """Collects modules, sites and parameters while the tree is built."""

    shape: Shape
    modules: list[ModuleInfo] = field(default_factory=list)
    sites: list[AdapterSite] = field(default_factory=list)
    parameters: list[ParameterInfo] = field(default_factory=list)

    def info(self, path: str, cls: str, site: int | None = None, part: str | None = None) -> ModuleInfo:
        made = ModuleInfo(id=len(self.modules), path=path, cls=cls, site=site, part=part)
        self.modules.append(made)
        return made

    def parameter(self, module: ModuleInfo, shape: tuple[int, ...], trainable: bool = True) -> int:
        number = len(self.parameters)
        self.parameters.append(ParameterInfo(
            id=number, name=f"{module.path}.weight", module=module.id, shape=shape, dtype="bfloat16",
            trainable=trainable, device="cuda:0", part=module.part,
        ))  # fmt: skip
        return number

    def gemm(self, m: int, n: int, k: int, role: str, dtype: str = BF16) -> Op:
        s = self.shape
        flops, moved = 2 * m * n * k, SIZE[dtype] * (m * k + k * n + m * n)
        ns = max(s.shortest_ns, flops // s.flops_per_ns, moved // s.bytes_per_ns)
        args = {"Input Dims": [[m, k], [k, n]], "Input type": [dtype, dtype]}
        return Op("aten::mm", role, (Kernel(f"gemm_{m}x{n}x{k}", ns),), gap=s.host_ns, args=args)

    def pointwise(self, name: str, role: str, elements: int, moves: int = 3, dtype: str = BF16) -> Op:
        """An elementwise op that touches ``moves`` tensors of ``elements``; its backward touches as many."""
        s = self.shape
        ns = max(s.shortest_ns, moves * elements * SIZE[dtype] // s.bytes_per_ns)
        kernel = Kernel(f"elementwise_{name.removeprefix('aten::')}", ns)
        args = {"Input Dims": [[elements]], "Input type": [dtype]}
        back = Op(name, role, (kernel,), gap=s.host_ns, args=args)
        return replace(back, grad=(back,))

    def linear(self, path: str, k: int, n: int, upstream: bool = True) -> Module:
        """A projection: plain, adapted or frozen. ``upstream``: its input needs a gradient."""
        adapted = self.shape.arm == "lora"
        return self._adapted(path, k, n, upstream) if adapted else self._plain(path, k, n, upstream)

    def _plain(self, path: str, k: int, n: int, upstream: bool) -> Module:
        t, trains = self.shape.tokens, self.shape.arm == "full"
        info = self.info(path, "Linear")
        number = self.parameter(info, (n, k), trains)
        back = (self.gemm(t, k, n, "base.linear"),) if upstream else ()
        back += (self.gemm(n, k, t, "base.linear"),) if trains else ()  # type: ignore[assignment]
        op = replace(self.gemm(t, n, k, "base.linear"), grad=back or None, params=(number,) if trains else ())
        return Module(info, (op,))

    def _adapted(self, path: str, k: int, n: int, upstream: bool) -> Module:
        s = self.shape
        t, r, fp32 = s.tokens, s.rank, s.variant == "V5"
        dtype, number = (FP32 if fp32 else BF16), len(self.sites)
        self.sites.append(AdapterSite(
            path=path, kind="lora", rank=r, in_features=k, out_features=n, scaling=2.0,
            dtype="float32" if fp32 else "bfloat16", base_dtype="bfloat16",
        ))  # fmt: skip
        wrapper = self.info(path, "lora.Linear", number, "wrapper")
        base = self._base(path, k, n, number, upstream)
        down = self._factor(f"{path}.lora_A.default", (t, r, k), number, "down", dtype, upstream)
        up = self._factor(f"{path}.lora_B.default", (t, n, r), number, "up", dtype, True)
        cast = self.pointwise("aten::to", "adapter.elementwise", t * k, 2, FP32) if fp32 else None
        back = self.pointwise("aten::to", "adapter.elementwise", t * n, 2, FP32) if fp32 else None
        if cast and not upstream:
            cast = replace(cast, grad=None)
        scale = self.pointwise("aten::mul", "adapter.elementwise", t * n, 2, dtype)
        add = self.pointwise("aten::add", "adapter.elementwise", t * n, 3)
        add = replace(add, grad=())  # its backward hands the gradient on
        if s.sync_in_adapter:
            scale = replace(scale, sync=True)
        body = (base, cast, down, up, scale, back, add)
        return Module(wrapper, tuple(item for item in body if item is not None))

    def _base(self, path: str, k: int, n: int, site: int, upstream: bool) -> Module:
        t, s = self.shape.tokens, self.shape
        info = self.info(f"{path}.base_layer", "Linear4bit" if s.dequant else "Linear", site, "base")
        self.parameter(info, (n, k), trainable=False)
        gemm = self.gemm(t, n, k, "base.linear")
        back = replace(self.gemm(t, k, n, "base.linear"))
        join = Kernel("elementwise_add", max(s.shortest_ns, 3 * t * k * 2 // s.bytes_per_ns))
        gemm = replace(gemm, grad=(back,) if upstream else None, joins=join if upstream else None)
        if not s.dequant:
            return Module(info, (gemm,))
        ns = max(s.shortest_ns, 5 * k * n // 2 // s.bytes_per_ns)
        unpack = Op("bitsandbytes::dequantize_4bit", "dequant", (Kernel("kDequantizeBlockwise<bf16>", ns),))
        return Module(info, (unpack, gemm))

    def _factor(self, path: str, mnk: tuple[int, int, int], site: int, part: str, dtype: str, upstream: bool) -> Module:
        m, n, k = mnk
        role = f"adapter.{part}"
        info = self.info(path, "Linear", site, part)
        number = self.parameter(info, (n, k))
        back = (self.gemm(m, k, n, role, dtype),) if upstream else ()
        op = replace(self.gemm(m, n, k, role, dtype), grad=(*back, self.gemm(n, k, m, role, dtype)), params=(number,))
        return Module(info, (op,))

    def layer(self, i: int) -> Module:
        s, path = self.shape, f"model.layers.{i}"
        t, h, f, first = s.tokens, s.hidden, s.ffn, i == 0 and s.arm == "lora"
        block = self.info(path, "DecoderLayer")
        norm = Module(self.info(f"{path}.norm", "RMSNorm"), (self._norm(t * h, not first),))
        attention = self.info(f"{path}.attn", "Attention")
        qkv = [self.linear(f"{path}.attn.{p}_proj", h, h, not first) for p in "qkv"]
        core = self.pointwise("aten::scaled_dot_product_attention", "attention", t * h, 4)
        attend = Module(attention, (*qkv, core, self.linear(f"{path}.attn.o_proj", h, h)))
        residual = replace(self.pointwise("aten::add", "residual", t * h, 3), grad=())
        mlp = self.info(f"{path}.mlp", "MLP")
        gate = self.linear(f"{path}.mlp.up_proj", h, f)
        act = Module(self.info(f"{path}.mlp.act", "SiLU"), (self.pointwise("aten::silu", "activation", t * f, 2),))
        body = Module(mlp, (gate, act, self.linear(f"{path}.mlp.down_proj", f, h)))
        norm2 = Module(self.info(f"{path}.norm2", "RMSNorm"), (self._norm(t * h, True),))
        return Module(block, (norm, attend, residual, norm2, body, residual), checkpoint=s.checkpoint)

    def _norm(self, elements: int, grad: bool) -> Op:
        op = self.pointwise("aten::rms_norm", "norm", elements, 2)
        return op if grad else replace(op, grad=None)


def program(shape: Shape, steps: int = 3) -> Program:
    """The training step of ``shape``."""
    b = Builder(shape)
    t, h = shape.tokens, shape.hidden
    top = b.info("", "CausalLM")
    embed = b.info("model.embed_tokens", "Embedding")
    look = replace(b.pointwise("aten::embedding", "embedding", t * h, 2), grad=None)
    layers = tuple(b.layer(i) for i in range(shape.layers))
    if shape.comm_ns:
        layers = tuple(_reducing(layer, shape.comm_ns) for layer in layers)
    head = b.info("lm_head", "Linear")
    project = replace(b.gemm(t, shape.vocab, h, "head"), grad=(b.gemm(t, h, shape.vocab, "head"),))
    if shape.arm in ("full", "frozen"):
        number = b.parameter(head, (shape.vocab, h))
        project = replace(project, grad=(*(project.grad or ()), b.gemm(shape.vocab, h, t, "head")), params=(number,))
    root = Module(top, (Module(embed, (look,)), *layers, Module(head, (project,))))
    loss = b.pointwise("aten::cross_entropy_loss", "loss", t * shape.vocab, 1)
    return Program(root, tuple(b.modules), (loss,), _adamw(b), (), tuple(b.sites), tuple(b.parameters), steps=steps)


def _adamw(b: Builder) -> tuple[Op, ...]:
    """Foreach AdamW: a chain of kernels over the trainable parameters, queued back to back."""
    count = sum(p.shape[0] * p.shape[1] for p in b.parameters if p.trainable)
    ns = max(12_000, count * 5 // b.shape.bytes_per_ns)
    waits = (COMM_STREAM,) if b.shape.comm_ns else ()
    chain = (Kernel("multi_tensor_apply", ns, waits=waits), *[Kernel("multi_tensor_apply", ns)] * 7)
    return tuple(Op("aten::_foreach_addcdiv_", "optimizer", (k,), gap=400, lead=600, tail=300) for k in chain)


def _reducing(layer: Module, ns: int) -> Module:
    """All-reduces on their own stream once the gradients of the layer's last adapters are there."""
    kernel = Kernel("ncclDevKernel_AllReduce_Sum_bf16_RING_LL", ns, stream=COMM_STREAM, waits=(7,))

    def visit(item: Op | Module) -> Op | Module:
        if isinstance(item, Module):
            return replace(item, body=tuple(visit(child) for child in item.body))
        return replace(item, reduce=kernel) if item.params else item

    made = visit(layer)
    assert isinstance(made, Module)
    return made
