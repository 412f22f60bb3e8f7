"""Kernels that can be told apart: labels from C++ names."""

import pytest

from loraprof.report.views.kernel_names import label, labels
from loraprof.store.profiles import profiles_dir

NATIVE = "void at::native::"
COPY = "direct_copy_kernel_cuda(at::TensorIteratorBase&)::{lambda()#3}::operator()() const::{lambda(float)#1}"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("aten::mm", "aten::mm"),
        ("nvjet_sm90_tst_256x128_64x4_1x2_h_bz_coopA_NNT", "gemm nvjet 256x128 NNT"),
        ("nvjet_sm90_tst_128x160_64x5_2x1_v_bz_coopA_bias_NNT", "gemm nvjet 128x160 bias NNT"),
        ("sm80_xmma_gemm_f32f32_f32f32_f32_nt_n_tilesize32x64x8_stage3_warpsize1x2x1_ffma_aligna4_alignc4_execute_split_k_kernel__5x_cublas", "gemm fp32 32x64 nt split-k"),  # noqa: E501
        ("void cutlass::Kernel2<cutlass_75_tensorop_bf16_s1688gemm_bf16_128x128_tn_align1>(cutlass_75::Params)", "gemm cutlass bf16 128x128 tn"),  # noqa: E501
        ("void cublasLt::splitKreduce_kernel<32, 16, int, float>(float*)", "gemm split-k reduction"),
        (f"{NATIVE}vectorized_elementwise_kernel<4, at::native::CUDAFunctor_add<float>, std::array<char*, 3ul> >(int)", "elementwise add fp32"),  # noqa: E501
        (f"{NATIVE}vectorized_elementwise_kernel<4, at::native::AUnaryFunctor<float, float, float, at::native::binary_internal::MulFunctor<float> >, std::array<char*, 2ul> >(int)", "elementwise mul by a scalar fp32"),  # noqa: E501
        (f"{NATIVE}unrolled_elementwise_kernel<at::native::{COPY}, std::array<char*, 2ul>, 4>(int)", "elementwise copy to fp32, unrolled"),  # noqa: E501
        (f"{NATIVE}vectorized_elementwise_kernel<8, at::native::bfloat16_copy_kernel_cuda(at::TensorIteratorBase&)::{{lambda(float)#1}}, std::array<char*, 2ul> >(int)", "elementwise copy fp32 to bf16"),  # noqa: E501
        (f"{NATIVE}reduce_kernel<512, 1, at::native::ReduceOp<float, at::native::MeanOps<float, float, float, float>, unsigned int, float, 4, 4> >(int)", "reduce mean fp32"),  # noqa: E501
        ("cudnn_generated_fort_native_sdpa_sm90_flash_bprop_wgmma_f16_knob_26_64x64x64_1x4x1_cga1x1x1_kernel0_0", "attention backward 64x64x64"),  # noqa: E501
        ("void (anonymous namespace)::softmax_warp_forward<float, 4>(float*)", "softmax_warp_forward fp32"),
        ("Memcpy DtoH (Device -> Pageable)", "Memcpy DtoH (Device -> Pageable)"),
        ("<lambda>", "<lambda>"),
        ("", ""),
    ],
)  # fmt: skip
def test_label(name: str, said: str) -> None:
    assert label(name) == said


def test_names_that_read_alike_get_what_differs() -> None:
    a, b = (f"nvjet_sm90_tst_256x128_64x4_{x}_h_bz_coop{y}_NNT" for x, y in (("1x2", "A"), ("2x1", "B")))
    assert labels([a, b, a]) == [
        "gemm nvjet 256x128 NNT 1x2",
        "gemm nvjet 256x128 NNT 2x1",
        "gemm nvjet 256x128 NNT 1x2",
    ]
    c, d = "void f<float, (int)1>(float*)", "void f<float, (int)2>(float*)"
    assert labels([c, d]) == ["f fp32 #1", "f fp32 #2"]


@pytest.mark.parametrize("name", ["llama-3.2-1b", "gpt2-xl-512", "tinyllama-512", "minimind-26m"])
def test_no_two_kernels_of_a_recording_share_a_label(name: str) -> None:
    from loraprof.store.kineto.read import read_trace

    trace = read_trace(profiles_dir() / "recordings" / "h100-sxm" / f"{name}.loraprof" / "rank0.trace.json.gz")
    names = [trace.names[i] for i in sorted(set(trace.device.name.tolist()))]
    assert len(set(labels(names))) == len(names) > 50
