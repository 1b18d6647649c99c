"""Four calls of an LSTM and an NTM, forward and backward, each in one launch: what a profiler looks at.

    python bench/gpu/walks.py [--device cpu] [--profile]

With --profile torch's own profiler looks, where there is no other.
"""

from __future__ import annotations

import argparse

import torch

import rnnkernels as rk
from bench import ntm
from rnnkernels.testing import cuda_path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--profile", action="store_true")
    given = parser.parse_args()
    T, B, H, machine = (100, 32, 256, ntm.Row(16)) if given.device != "cpu" else (6, 2, 8, ntm.Row(2, T=3, N=16))
    module, x = rk.LSTM(H, H).to(given.device), torch.randn(T, B, H, device=given.device)
    call = ntm.calls(machine, rk.functional.ntm, True, device=given.device)

    def walk(times: int) -> None:
        for _ in range(times):
            module(x)[0].square().sum().backward()
            call()

    with cuda_path("persistent"):
        if not given.profile:
            return walk(4)
        walk(1)
        with torch.profiler.profile() as seen:
            walk(3)
    order = "self_cuda_time_total" if given.device != "cpu" else "self_cpu_time_total"
    print(seen.key_averages().table(sort_by=order, row_limit=15, max_name_column_width=60))


if __name__ == "__main__":
    main()
