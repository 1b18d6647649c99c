"""A layer's walk in one launch, forward and backward: what a profiler looks at.

    python bench/gpu/walks.py [--device cpu] [--profile]

It runs a few times before the profiler is told to look (ncu --profile-from-start off). With --profile torch's own
profiler looks, where there is no other.
"""

from __future__ import annotations

import argparse

import torch

import rnnkernels as rk
from rnnkernels.testing import cuda_algo

WARM = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--profile", action="store_true")
    given = parser.parse_args()
    on_gpu = given.device != "cpu"
    T, B, H = (100, 32, 256) if on_gpu else (6, 2, 8)
    module, x = rk.LSTM(H, H, device=given.device), torch.randn(T, B, H, device=given.device)

    def call() -> None:
        module(x)[0].square().sum().backward()

    with cuda_algo("persistent"):
        for _ in range(WARM):
            call()
        if given.profile:
            with torch.profiler.profile() as seen:
                call()
        elif on_gpu:
            torch.cuda.synchronize()
            torch.cuda.cudart().cudaProfilerStart()
            call()
            torch.cuda.synchronize()
            torch.cuda.cudart().cudaProfilerStop()
    if not given.profile:
        return
    order = "self_cuda_time_total" if on_gpu else "self_cpu_time_total"
    print(seen.key_averages().table(sort_by=order, row_limit=15, max_name_column_width=60))


if __name__ == "__main__":
    main()
