"""What the compiler says of the CUDA kernels, and what that implies: ``python -m bench.estimate`` renders docs/cuda.md.

Nothing here is a measurement. Occupancy is arithmetic over csrc/cuda/limits.toml; the instructions of inner loops are
counted in nvcc's output where ``--nvdisasm`` names the disassembler; floors divide bytes and operations by datasheets.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CUDA, PAGE = ROOT / "csrc/cuda", ROOT / "docs/cuda.md"
MARK = "<!-- estimate:{} {} -->"


@dataclass(frozen=True)
class Card:
    """A datasheet: per processor registers, KiB of shared memory, threads and blocks; TFLOP/s in float32 and GB/s."""

    name: str
    architecture: str
    processors: int
    shared: int
    threads: int
    blocks: int
    tflops: float
    bandwidth: float
    registers: int = 65536

    def occupancy(self, registers: int, threads: int, shared: int) -> float:
        """Share of a processor's threads that are resident: registers a thread, threads and bytes a block."""
        warps = threads // 32
        of_registers = self.registers // (-(-registers * 32 // 256) * 256 * warps)
        of_shared = self.shared * 1024 // (shared + 1024) if shared else self.blocks
        return min(of_registers, of_shared, self.threads // threads, self.blocks) * threads / self.threads


CARDS = (
    Card("T4", "sm_75", 40, 64, 1024, 16, 8.1, 320),
    Card("A100", "sm_80", 108, 164, 2048, 32, 19.5, 1555),
    Card("H100", "sm_90", 132, 228, 2048, 32, 66.9, 3350),
    Card("RTX 5090", "sm_120", 170, 100, 1536, 24, 104.8, 1792),
)
# Kernels of the tables: as limits.toml names them, threads of a block, bytes of dynamic shared memory.
KERNELS = (
    ("forward_run<Lstm, float, 0>", 128, 0),
    ("backward_run<Lstm, float, 0>", 128, 0),
    ("forward_walk<Lstm, Fma<float> >", 256, 64 << 10),
    ("backward_walk<Lstm, Fma<float> >", 256, 64 << 10),
    ("forward_walk<Lstm, TensorCores<__nv_bfloat16> >", 256, 64 << 10),
    ("backward_walk<Lstm, TensorCores<__nv_bfloat16> >", 256, 64 << 10),
    ("ntm_walk<NtmForward<Lstm, float>, float, true>", 256, 32 << 10),
    ("ntm_walk<NtmBackward<Lstm, float>, float, true>", 256, 91 << 10),
)
SIZES = ((1, 256), (32, 256), (64, 512), (64, 1024), (256, 2048))  # B, H


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] + ["---:"] * (len(head) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def occupancies() -> str:
    limits = tomllib.loads((CUDA / "limits.toml").read_text())
    rows = []
    for name, threads, dynamic in KERNELS:
        cells = []
        for card in CARDS:
            registers, static = limits.get(card.architecture, {}).get(name, (None, 0))
            fits = dynamic + 1024 <= min(card.shared, 227 if card.architecture == "sm_90" else card.shared - 1) * 1024
            if registers is None or not fits:
                cells.append("-")
            else:
                cells.append(f"{card.occupancy(registers, threads, static + dynamic):.0%} ({registers})")
        rows.append([f"`{name}`", str(threads), f"{dynamic >> 10}", *cells])
    return table(["kernel", "threads", "KiB", *(card.name for card in CARDS)], rows)


# -- instructions ------------------------------------------------------------------------------------------------------

# An HMMA is 16 x 8 x 16 multiplications of 32 lanes. What nvcc cannot tell to be shared memory is a generic load.
KINDS = {
    "FMA": r"[FD]FMA|FFMA2",
    "HMMA": r"HMMA\.16816",
    "load shared": r"LDS|LDSM",
    "load generic": r"LD",
    "load global": r"LDG",
    "barrier": r"BAR",
}
OF_HMMA = 64


def functions(text: str) -> Iterator[tuple[str, list[str]]]:
    """Name and lines of each kernel that nvdisasm lists."""
    for part in re.split(r"\n\t\.section\t\.text\.", text)[1:]:
        name = re.match(r"[^,]+", part)[0]
        filt = shutil.which("c++filt")
        plain = subprocess.run([filt, name], capture_output=True, text=True).stdout if filt else name
        short = re.sub(r"rnn::(cuda::)?|\(rnn::\w+\)|^void ", "", plain.strip().partition("(")[0])
        yield short.replace(", (int)", ", "), part.splitlines()


def multiplications(count: Counter[str]) -> int:
    """Multiply-adds of a lane."""
    return count["FMA"] + OF_HMMA * count["HMMA"]


def inner_loop(lines: list[str]) -> Counter[str]:
    """Instructions of the innermost loop with the most multiply-adds."""
    labels, loops = {}, []
    for i, line in enumerate(lines):
        if found := re.match(r"(\.L_x_\d+):", line):
            labels[found[1]] = i
        if (found := re.search(r"BRA.*`\((\.L_x_\d+)\)", line)) and found[1] in labels:
            loops.append((labels[found[1]], i))
    inner = [(a, b) for a, b in loops if not any(a <= c and d < b for c, d in loops if (c, d) != (a, b))]
    best: Counter[str] = Counter()
    for a, b in inner:
        words = [re.search(r"\*/\s+(?:@!?U?P\w+ )?([A-Z0-9.]+)", line) for line in lines[a : b + 1]]
        count = Counter(
            kind for w in words if w for kind, pattern in KINDS.items() if re.match(rf"(?:{pattern})(?:\.|$)", w[1])
        )
        if multiplications(count) > multiplications(best):
            best = count
    return best


def instructions(nvcc: str, nvdisasm: str, architecture: str) -> str:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for source in sorted([*CUDA.glob("*_float.cu"), *CUDA.glob("*_halves.cu")]):
            cubin = Path(folder) / f"{source.stem}.cubin"
            flags = ["-std=c++20", "-expt-relaxed-constexpr", f"-arch={architecture}", "-cubin"]
            subprocess.run([nvcc, *flags, source, "-o", cubin], check=True)
            text = subprocess.run([nvdisasm, "-c", cubin], check=True, capture_output=True, text=True).stdout
            for name, lines in functions(text):
                count = inner_loop(lines)
                if multiplications(count) and re.search("Lstm|Gru[,>]|Rnn<Tanh", name) and "LayerNorm" not in name:
                    loads = count["load shared"] + count["load generic"]
                    ratio = f"{multiplications(count) / loads:.1f}" if loads else "-"
                    rows.append([f"`{name}`", *(str(count[kind]) for kind in KINDS), ratio])
    return table(["inner loop", *KINDS, "multiply-adds per shared load"], sorted(rows))


# -- floors ------------------------------------------------------------------------------------------------------------


def floors() -> str:
    """An LSTM's tick, forward with what backward needs: operations, bytes, and the least time they take."""
    rows = []
    for B, H in SIZES:
        flop = 2 * B * 4 * H * H
        weights, rest = 4 * 4 * H * H, 4 * B * H * (4 + 4 + 4 + 2 + 5 + 2)  # u out and in, W x, c, saved, h and out
        cells = []
        for card in CARDS:
            seconds = max(flop / card.tflops / 1e12, (weights + rest) / card.bandwidth / 1e9)
            cells.append(f"{seconds * 1e6:.2f}")
        rows.append([f"B {B}, H {H}", f"{flop / 1e6:.1f}", f"{weights / 1e6:.2f} + {rest / 1e6:.2f}", *cells])
    return table(["LSTM, a tick", "MFLOP", "MB: weights + rest", *(f"{card.name}, us" for card in CARDS)], rows)


def machine_floors(N: int = 128, M: int = 20, H: int = 100, inputs: int = 10, heads: int = 2) -> str:
    """A Neural Turing Machine's tick of one row: what its block reads of weights, from L2 after the first tick."""
    gates = 4 * H * (inputs + M + H)
    taken = (M + 6) * heads + 2 * M
    flop = 2 * (gates + taken * H + N * M * (2 + 1 + 3))
    rows = []
    for card in CARDS:
        bytes_ = 4 * (gates + taken * H)
        per_processor = 64e9 * 1.5  # bytes a second from L2: 64 a cycle at 1.5 GHz
        rows.append([card.name, f"{flop / 1e6:.2f}", f"{bytes_ / 1e6:.2f}", f"{bytes_ / per_processor * 1e6:.1f}"])
    return table([f"NTM {N} x {M}, controller {H}: a tick of a row", "MFLOP", "MB of weights", "us from L2"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.estimate", description=__doc__)
    parser.add_argument("--nvcc", default=shutil.which("nvcc"))
    parser.add_argument("--nvdisasm", default=shutil.which("nvdisasm"), help="comes with CUDA, and with triton")
    parser.add_argument("--architecture", default="sm_80", help="whose instructions are counted")
    args = parser.parse_args()
    blocks = {"occupancy": occupancies(), "floors": floors(), "machine": machine_floors()}
    if args.nvcc and args.nvdisasm:
        blocks["instructions"] = instructions(args.nvcc, args.nvdisasm, args.architecture)
    text = PAGE.read_text()
    for name, block in blocks.items():
        begin, end = MARK.format(name, "start"), MARK.format(name, "end")
        before, _, rest = text.partition(begin)
        text = before + begin + "\n" + block + "\n" + end + rest.partition(end)[2]
    PAGE.write_text(text)
    print(f"wrote {', '.join(blocks)} of {PAGE}")


if __name__ == "__main__":
    main()
