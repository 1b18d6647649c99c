"""One row for a developer: ``python -m bench.quick lstm 100 32 256 --threads 2 --isa avx2 --bwd``."""

from __future__ import annotations

import argparse

import torch

import rnnkernels as rk
from rnnkernels import _C

from .cases import GATES, Case, Problem, flop
from .contestants import contestants, makers
from .timing import Others, fma_peak, interleave, summary
from .variants import VARIANTS, Trial


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.quick", description=__doc__)
    parser.add_argument("cell", choices=[*sorted(GATES), *VARIANTS], metavar="CELL", help="one of %(choices)s")
    parser.add_argument("T", type=int)
    parser.add_argument("B", type=int)
    parser.add_argument("H", type=int)
    parser.add_argument("--input", type=int, help="I (default: H)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--isa", help="force this ISA (default: the best here)")
    parser.add_argument("--bwd", action="store_true", help="forward and backward (default: inference)")
    parser.add_argument(
        "--only",
        help="contestants to time, by commas (default: all but 'compiled loop'; 'op' is the "
        "raw op without the Python layer)",
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="time for the whole row")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    case = Case(args.T, args.B, args.input or args.H, args.H)
    if args.isa:
        rk.set_isa(args.isa)
    problem = Problem(args.cell, case) if args.cell in GATES else Trial(args.cell, case)
    every = makers(problem, args.bwd, args.threads) if args.cell in GATES else problem.makers(args.bwd, args.threads)
    only = args.only.split(",") if args.only else [name for name in every if name != "compiled loop"]
    if unknown := set(only) - set(every):
        parser.error(f"--only: no {', '.join(sorted(unknown))} in this row, only {', '.join(every)}")
    skip = set(every) - set(only)
    if args.cell in GATES:
        entrants = contestants(problem, args.bwd, args.threads, skip)
    else:
        entrants = problem.contestants(args.bwd, args.threads, skip)
    peak, source = fma_peak(args.threads)
    with Others() as others:
        times = interleave(entrants, args.seconds, args.bwd)
    kernel = _last_kernel(entrants, args.bwd)
    gflop = flop(args.cell, case, args.bwd) / 1e9 if args.cell in GATES else None
    print(
        f"{args.cell} {case} {'forward+backward' if args.bwd else 'inference'}, {args.threads} threads, "
        f"peak {peak:.0f} GFLOP/s ({source}), others used {others.cores:.1f} cores{kernel}"
    )
    ours = summary(times[entrants[-1].name])["median"]
    with torch.inference_mode(not args.bwd):
        results = {e.name: [torch.as_tensor(t).detach() for t in (e.check or e.call)()] for e in entrants}
    first = entrants[0].name
    for name, seconds in times.items():
        s = summary(seconds)
        rate = f"{gflop / s['median']:7.1f} GFLOP/s {gflop / s['median'] / peak:6.1%}" if gflop else ""
        apart = max(
            float((t - f).abs().max() / f.abs().max()) for t, f in zip(results[name], results[first], strict=True)
        )
        print(
            f"  {name:16s} {s['median'] * 1e3:9.3f} ms [{s['q1'] * 1e3:.3f}, {s['q3'] * 1e3:.3f}] x{s['rounds']:<3d}"
            f"{rate}  {s['median'] / ours:6.2f}x the last's  {apart:.0e} from {first}"
        )


def _last_kernel(entrants: list, backward: bool) -> str:
    with torch.inference_mode(not backward):
        entrants[-1].call()
    return f", last kernel {_C.last_kernel()}"


if __name__ == "__main__":
    main()
