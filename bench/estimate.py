"""What the compiler says of the CUDA kernels, and what that implies: ``python -m bench.estimate`` renders docs/cuda.md.

Nothing here is a measurement. Occupancy is arithmetic over csrc/cuda/limits.toml; floors divide bytes and operations by
datasheets.
"""

from __future__ import annotations

import argparse
import tomllib
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
    ("forward_walk<Lstm, Fma<float>, true>", 256, 64 << 10),
    ("backward_walk<Lstm, Fma<float>, true>", 256, 64 << 10),
    ("forward_walk<Lstm, TensorCores<__nv_bfloat16>, true>", 256, 64 << 10),
    ("backward_walk<Lstm, TensorCores<__nv_bfloat16>, true>", 256, 64 << 10),
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
    argparse.ArgumentParser(prog="python -m bench.estimate", description=__doc__).parse_args()
    blocks = {"occupancy": occupancies(), "floors": floors(), "machine": machine_floors()}
    text = PAGE.read_text()
    for name, block in blocks.items():
        begin, end = MARK.format(name, "start"), MARK.format(name, "end")
        before, _, rest = text.partition(begin)
        text = before + begin + "\n" + block + "\n" + end + rest.partition(end)[2]
    PAGE.write_text(text)
    print(f"wrote {', '.join(blocks)} of {PAGE}")


if __name__ == "__main__":
    main()
