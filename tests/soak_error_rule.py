"""How near the error rule comes to its bound, and whether it ever refuses by chance.

    python tests/soak_error_rule.py [--runs 20] [--of 8] [--build build/cuda_on_cpu] [--keep FOLDER]

Runs the tests that use the rule, each run with other seeds for every problem, plain torch held to AVX2 or at its best,
MKL held to a code path or not, and one or two threads. Prints every check that failed and the distribution of error
over bound; status 1 if any failed.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from itertools import product
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TESTS = {
    "test_ops.py": "cases options large one_bias no_inputs rows_that_never a_bias_that",
    "test_options.py": "alone resets_of all_states recomputing zoneout_in truncated_as large_mean when_large",
    "test_ntm.py": "error_rule as_good_as",
    "test_modules.py": "every_constructor state_dict_both test_cells",
    "test_variants.py": "at_once_in_float32",
    "test_properties.py": "as_good_as",
}
HELD = ({}, {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"})
PATHS = ({}, {"MKL_CBWR": "COMPATIBLE"}, {"MKL_CBWR": "AVX2"})
THREADS = ("1", "2")
SETTINGS = list(product(HELD, PATHS, THREADS))


def selected(environment: dict[str, str], options: list[str]) -> list[str]:
    """The ids of all tests that use the rule."""
    found = []
    for name, words in TESTS.items():
        command = [
            sys.executable,
            "-m",
            "pytest",
            "--collect-only",
            f"tests/{name}",
            "-k",
            " or ".join(words.split()),
            *options,
        ]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        found += [line for line in done.stdout.splitlines() if line.startswith("tests/") and "::" in line]
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20, help="each with seeds of its own")
    parser.add_argument(
        "--of", type=int, default=1, help="a run takes such a part of the tests, the next run the next one"
    )
    parser.add_argument("--first", type=int, default=1, help="number of the first run: its seeds and settings")
    parser.add_argument("--build", default="", help="a folder with another build of the package, to test that")
    parser.add_argument("--keep", help="a folder for what every run says and every check's numbers")
    args = parser.parse_args()
    folder = Path(args.keep or tempfile.mkdtemp())
    folder.mkdir(parents=True, exist_ok=True)
    environment = os.environ | ({"PYTHONPATH": str(ROOT / args.build), "PYTHONSAFEPATH": "1"} if args.build else {})
    options = ["-o", "pythonpath="] if args.build else []  # or pytest puts this tree's own build first
    tests, failed = selected(environment, options), 0
    assert tests
    print(f"{len(tests)} tests use the rule; {args.runs} runs of 1/{args.of}", flush=True)
    ratios: list[float] = []
    for run in range(args.first, args.first + args.runs):
        held, path, threads = SETTINGS[run % len(SETTINGS)]
        settings = held | path | {"RNNKERNELS_TEST_THREADS": threads, "RNNKERNELS_SHIFT_SEEDS": str(1000 * run)}
        record, ids = folder / f"{run}.tsv", folder / f"{run}.tests"
        record.unlink(missing_ok=True)
        part = run % args.of  # neighbours, for which what they are held against is computed once
        ids.write_text("\n".join(tests[part * len(tests) // args.of : (part + 1) * len(tests) // args.of]))
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-p",
            "no:cacheprovider",
            "--hypothesis-seed",
            str(run),
            f"@{ids}",
        ]
        command += options
        settings["RNNKERNELS_RECORD_CHECKS"] = str(record)
        done = subprocess.run(command, cwd=ROOT, env=environment | settings, capture_output=True, text=True)
        (folder / f"{run}.txt").write_text(done.stdout + done.stderr)
        checks = [line.rstrip("\n").split("\t") for line in record.open()] if record.exists() else []
        here = [float(c[2]) / float(c[3]) if float(c[3]) else float(float(c[2]) > 0) for c in checks]
        bad = [c for c, ratio in zip(checks, here, strict=True) if not ratio <= 1]
        last = done.stdout.strip().splitlines()[-1:]
        print(
            f"run {run} {settings}: {len(checks)} checks, {len(bad)} refused, pytest {done.returncode}: {last}",
            flush=True,
        )
        for check in bad:
            print("  refused:", *check, flush=True)
        failed += len(bad) + (done.returncode != 0)
        ratios += here
    ratios.sort()
    if ratios:
        quantiles = {q: ratios[min(int(q * len(ratios)), len(ratios) - 1)] for q in (0.99, 0.999, 0.9999)}
        quantiles = {50: statistics.median(ratios)} | {100 * q: r for q, r in quantiles.items()} | {100: ratios[-1]}
        said = ", ".join(f"{q:g} % {r:.3f}" for q, r in quantiles.items())
        print(f"{len(ratios)} checks, error over bound, by quantile: {said}")
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
