"""The tool that runs CUDA kernels on the CPU (tests/cuda_on_cpu): right kernels pass, planted bugs are reported.

What reports a bug: `plain` the build without sanitizers, `asan` AddressSanitizer and UBSan, `tsan` ThreadSanitizer.
"""

import functools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from test_nvcc import nvcc

HERE = Path(__file__).resolve().parent / "cuda_on_cpu"
sys.path.insert(0, str(HERE))
import rewrite  # noqa: E402

CXX = os.environ.get("CXX", "g++")
FLAGS = ["-std=c++20", "-O1", "-g1", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
SANITIZERS = {
    "plain": [],
    "asan": ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"],
    "tsan": ["-fsanitize=thread", "-fno-omit-frame-pointer"],
}
MODES = list(SANITIZERS)


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """run(mode, *cases, **environment): exit status and words of the kernels' program, built when first run."""
    folder = tmp_path_factory.mktemp("cuda_on_cpu")
    rewrite.main(HERE / "kernels", folder)

    @functools.cache
    def build(mode):
        sources = [*sorted(folder.glob("*.cu.cpp")), HERE / "kernels/main.cpp", HERE / "runtime.cpp"]
        include = [f"-I{folder}", f"-I{HERE / 'include'}", f"-I{HERE / 'kernels'}"]
        command = [CXX, *FLAGS, *SANITIZERS[mode], *include, *sources, "-o", folder / mode]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-4000:]
        return folder / mode

    def run(mode, *cases, **environment):
        clean = {k: v for k, v in os.environ.items() if not k.startswith("CUDA_ON_CPU_")}
        done = subprocess.run([build(mode), *cases], capture_output=True, text=True, env=clean | environment)
        return done.returncode, done.stdout + done.stderr

    return run


@pytest.mark.parametrize("mode", MODES)
def test_right_kernels(run, mode):
    status, said = run(mode)
    assert status == 0 and re.fullmatch(r"(\w+: right\n)+", said), said[-4000:]
    assert run(mode, "every_barrier", "every_grid_sync") == (0, "every_barrier: right\nevery_grid_sync: right\n")


@pytest.mark.parametrize("seed", ["0", "2", "3"])
def test_right_kernels_in_other_orders(run, seed):
    assert run("plain", CUDA_ON_CPU_SEED=seed)[0] == 0


LINES = (HERE / "kernels/wrong.cu").read_text().splitlines()


def line(words):
    """Where wrong.cu says this, as compilers name it."""
    (number,) = [i for i, text in enumerate(LINES, 1) if words in text]
    return rf"wrong\.cu:{number}\b"


REPORTS = [
    ("missing_barrier", "plain", r"is -?nan, should be 2016"),
    ("missing_barrier", "tsan", rf"data race(.|\n)*{line('part[threadIdx.x] = x[r')}"),
    ("write_after_read", "plain", r"should be 2016"),
    ("write_after_read", "tsan", rf"data race(.|\n)*{line('sum += part')}"),
    ("missing_grid_sync", "plain", "should be"),
    ("missing_grid_sync", "tsan", rf"data race(.|\n)*{line('y[i] = x[(i + 32)')}"),
    ("order_of_threads", "tsan", rf"data race(.|\n)*{line('x[0] = x[0] * 3')}"),
    ("order_of_blocks", "tsan", rf"data race(.|\n)*{line('x[0] = x[0] * 3')}"),
    ("beyond_dynamic", "asan", rf"AddressSanitizer: heap-buffer-overflow(.|\n)*?{line('raw[dynamic] = 1')}"),
    ("beyond_static", "asan", rf"AddressSanitizer: heap-buffer-overflow(.|\n)*?{line('p[fixed] = 1')}"),
    ("before_static", "asan", rf"AddressSanitizer: use-after-poison(.|\n)*?{line('p[fixed] = 1')}"),
    ("beyond_global", "asan", rf"AddressSanitizer: heap-buffer-overflow(.|\n)*?{line('x[global] = 1')}"),
    ("unaligned", "asan", rf"{line('reinterpret_cast<float2*>')}.*misaligned address"),
    ("uninitialised", "plain", r"is -?nan, should be 32"),
    ("too_much_dynamic", "plain", "invalid argument"),
]
# What breaks a rule is thrown by the launch, whatever the build.
RULES = [
    ("ended_before_the_barrier", r"divergent __syncthreads: .* thread \(5,0,0\) of block \(0,0,0\) has ended"),
    ("two_barriers", r"divergent __syncthreads at .*wrong\.cu:\d+, where .* waits in __syncthreads at .*wrong\.cu:\d+"),
    ("half_a_warp", r"divergent __syncwarp: .*, thread \(7,0,0\) of block \(0,0,0\) waits in __syncthreads"),
    ("outside_of_its_mask", rf"__shfl_sync at .*{line('__shfl_sync(0xFFFF,')} by a lane outside of its own mask"),
    ("trap", r"divergent, launched at .*: thread \(3,0,0\) of block \(0,0,0\): __trap"),
    ("grid_sync_in_a_plain_launch", r"grid sync at .* in a launch that is not cooperative"),
    ("grid_sync_of_some_blocks", r"divergent grid sync: .* of block \(1,0,0\) has ended"),
    ("too_much_static", "more than 48 KiB of static shared memory"),
    ("limit_of_a_call", "limit of shared memory is changed from 50000 to 60000 bytes"),
    ("spinning", "waits for ever"),
]


@pytest.mark.parametrize(
    "case,mode,words",
    REPORTS + [(case, mode, words) for case, words in RULES for mode in MODES if case != "spinning" or mode == "plain"],
)
def test_bug_is_reported(run, case, mode, words):
    status, said = run(mode, case)
    assert status != 0 and re.search(words, said), said[-4000:]


@pytest.mark.parametrize("case", ["order_of_threads", "order_of_blocks"])
def test_the_seed_is_the_order(run, case):
    in_order = functools.reduce(lambda x, i: (x * 3 + i) % 2**32, range(20), 0)
    assert run("plain", case, CUDA_ON_CPU_SEED="0")[1] == f"{case}: {in_order}\n"
    said = [run("plain", case, CUDA_ON_CPU_SEED=seed)[1] for seed in "1123"]
    assert said[0] == said[1] and len(set(said)) == 3


def test_the_device_is_what_the_environment_says(run):
    assert run("plain", "persistent", CUDA_ON_CPU_SMS="1", CUDA_ON_CPU_BLOCKS_PER_SM="3")[0] == 0
    assert "too many resources" in run("plain", "persistent", CUDA_ON_CPU_THREADS_PER_SM="32")[1]
    assert "not supported" in run("plain", "persistent", CUDA_ON_CPU_COOPERATIVE="0")[1]
    assert "opting in" in run("plain", "refusals", CUDA_ON_CPU_SHARED_OPTIN="50000")[1]


@pytest.mark.skipif(nvcc() is None, reason="no nvcc here")
def test_right_kernels_are_cuda(tmp_path):
    command = [nvcc(), "-std=c++20", "-arch=sm_80", "-Werror", "all-warnings", "-c", HERE / "kernels/right.cu"]
    done = subprocess.run([*command, "-o", tmp_path / "right.o"], capture_output=True, text=True)
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]


# ---------------------------------------------------------------------------------------------------------- rewrite.py

REWRITES = {
    "k<<<1, 2>>>(x);": "CUDA_ON_CPU_KERNEL(k)(1, 2)(x);",
    "k<T, 3><<<dim3(1, 2), n, 0, s>>>(x, y);": "CUDA_ON_CPU_KERNEL(k<T, 3>)(dim3(1, 2), n, 0, s)(x, y);",
    "if (a) ns::k<A<B>, (x > 3)><<<1, 2>>>();": "if (a) CUDA_ON_CPU_KERNEL(ns::k<A<B>, (x > 3)>)(1, 2)();",
    "return ::k<<<1, 2>>>();": "return CUDA_ON_CPU_KERNEL(::k)(1, 2)();",
    "table[i]<<<1, 2>>>();": "CUDA_ON_CPU_KERNEL(table[i])(1, 2)();",
    "call(p->k<<<1, 2>>>());": "call(CUDA_ON_CPU_KERNEL(p->k)(1, 2)());",
    "get<int>(3)<<<1, 2>>>();": "CUDA_ON_CPU_KERNEL(get<int>(3))(1, 2)();",
    "S<T, (1 > 0)>::k<3> <<<1, 2>>> ();": "CUDA_ON_CPU_KERNEL(S<T, (1 > 0)>::k<3> )(1, 2) ();",
    "b > 0 ? (c ? k : j)<<<1, 2>>>() : f();": "b > 0 ? CUDA_ON_CPU_KERNEL((c ? k : j))(1, 2)() : f();",
    "F([&] { k<T>\n  <<<a,\n b>>>(x); });": "F([&] { CUDA_ON_CPU_KERNEL(k<T>\n  )(a,\n b)(x); });",
    "// k<<<1, 2>>>()\nf(\"k<<<1, 2>>>()\", '\"', 1'000); /* __shared__ int x; */": None,
    'auto s = R"x(")\nk<<<1, 2>>>())x";': None,
    "std::cout << x << y; a >>= b << 3;": None,
    "__shared__ T x;": "auto& x = ::cuda_on_cpu::shared<T>([] {});",
    "__shared__ float x[N][M + 1];": "auto& x = ::cuda_on_cpu::shared<float[N][M + 1]>([] {});",
    "__shared__ alignas(16) P<A, 3>\n x[2], y;": "auto& x = ::cuda_on_cpu::shared<P<A, 3>[2], 16>([] {}); "
    "auto& y = ::cuda_on_cpu::shared<P<A, 3>, 16>([] {});\n",
    "static __shared__ const float* x[2];": "auto& x = ::cuda_on_cpu::shared<const float*[2]>([] {});",
    "extern __shared__ float x[];": "auto* x = ::cuda_on_cpu::dynamic_shared<float>();",
    "extern __shared__ __align__(sizeof(T)) char x[];": "auto* x = ::cuda_on_cpu::dynamic_shared<char, sizeof(T)>();",
    "__noinline__ void f(); __attribute__((__noinline__)) void g();": "__attribute__((__noinline__)) void f(); "
    "__attribute__((__noinline__)) void g();",
}


@pytest.mark.parametrize("cuda", REWRITES)
def test_rewrite(cuda):
    text = rewrite.rewrite(cuda, "some.cu")
    assert text == f'#include <cuda_runtime.h>\n#line 1 "some.cu"\n{REWRITES[cuda] or cuda}'
    assert text.count("\n") == cuda.count("\n") + 2


def test_rewrite_of_a_folder(tmp_path):
    source, target = tmp_path / "in", tmp_path / "out"
    (source / "deep").mkdir(parents=True)
    (source / "deep/a.cu").write_text('#include "../b.cuh"\n#include "c.h"\n#include "missing.h"\nk<<<1, 2>>>();\n')
    (source / "b.cuh").write_text("#pragma once\n")
    (source / "deep/c.h").write_text("")
    command = [sys.executable, HERE / "rewrite.py", source, target]
    subprocess.run(command, check=True)
    written = {p.relative_to(target).as_posix(): p.stat().st_mtime_ns for p in target.rglob("*") if p.is_file()}
    assert set(written) == {"deep/a.cu.cpp", "b.cuh"}
    text = (target / "deep/a.cu.cpp").read_text()
    assert f'#include "../b.cuh"\n#include "{source}/deep/c.h"\n#include "missing.h"\n' in text
    (source / "b.cuh").write_text("#pragma once\nint x;\n")
    subprocess.run(command, check=True)
    assert (target / "deep/a.cu.cpp").stat().st_mtime_ns == written["deep/a.cu.cpp"]
    assert "int x;" in (target / "b.cuh").read_text()
