"""``python -m bench.report``: render ``bench/results/*.json`` as RESULTS.md, plots and README.md's table.

Nothing is measured and nothing left out: rows that lose stand in bold beside those that win.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path

from . import card
from .cases import GRID, Case
from .cases import VARIANTS as VARIANT_CASES
from .contestants import TORCH
from .memory import MIB
from .ntm import COMPILED, ROWS
from .options import GROUPS, LONG, Option
from .reasons import REASONS
from .results import FOLDER
from .timing import BUSY_CORES
from .variants import VARIANTS

HERE = Path(__file__).parent
README, GPU_PAGE = HERE.parent / "README.md", HERE.parent / "docs/cuda.md"
MARK = "<!-- bench:{} -->"
MODES = {"inference": "inference", "training": "forward + backward"}
TITLES = {"lstm": "LSTM", "gru": "GRU", "rnn_tanh": "RNN (tanh)", "minimal_gru": "MinimalGRU"}
PEERS = {
    "torch": "torch.nn",
    "torch cell": "torch Cell",
    "onnxruntime": "ONNX Runtime",
    "eager loop": "eager loop",
    "compiled loop": "compiled loop",
    "TorchScript": "TorchScript",
}
VARIANT_TARGETS = {"training": (5.0, 1.9), "inference": (4.0, 1.7)}  # geometric mean and least over the best peer
TRUNCATED = 1.8  # times faster than the full gradient's backward
ONLINE_US = 150.0
VARIANT_PEERS = ("eager loop", "TorchScript", "compiled loop", "onnxruntime")


class Run:
    """One results file: a machine and an ISA."""

    def __init__(self, path: Path):
        self.name = path.stem
        body = json.loads(path.read_text())
        self.rows = body.pop("rows")
        self.header = body
        self.layers = [row for key, row in self.rows.items() if key.startswith("layer ")]
        for row in self.layers:  # one peak a machine: the best seen
            row["peak_gflops"] = max(r["peak_gflops"] for r in self.layers if r["threads"] == row["threads"])
        self.cells = list(
            dict.fromkeys(
                [c for c in TITLES if any(r["cell"] == c for r in self.layers)] + [r["cell"] for r in self.layers]
            )
        )

    @property
    def title(self) -> str:
        m = self.header["machine"]
        return f"{m['cpu']} (family {m['family']}, model {m['model']}), {m['cores']} cores, {self.header['isa']}"

    def find(self, cell: str, case: Case, mode: str, threads: int) -> dict | None:
        return self.rows.get(f"layer {cell} {case} {mode} {threads}")

    def speedups(
        self, cell: str, peer: str, mode: str, threads: int = 2, ours: str = "rnnkernels"
    ) -> dict[Case, float]:
        """Peer's median over ours by case, one tick (which has a table of its own) left out."""
        found = {case: self.find(cell, case, mode, threads) for case in GRID if case.T > 1}
        return {case: ratio(row, peer, ours) for case, row in found.items() if row and ratio(row, peer, ours)}

    def variant(self, name: str, mode: str) -> dict[Case, dict]:
        """The rows of a variant by case."""
        found = {case: self.rows.get(f"variant {name} {case} {mode}") for case in VARIANT_CASES}
        return {case: row for case, row in found.items() if row}

    def over_best(self, name: str, mode: str) -> dict[Case, float]:
        """The best peer's median over ours by case."""
        return {case: ratio(row, best_peer(row)) for case, row in self.variant(name, mode).items()}

    def options(self, group: str, mode: str) -> dict[Case, dict]:
        """The rows of a family of options by case."""
        found = {case: self.rows.get(f"option {group} {case} {mode}") for case in (*VARIANT_CASES, LONG)}
        return {case: row for case, row in found.items() if row}

    def cost(self, group: str, name: str, mode: str) -> dict[Case, float]:
        """The time of an option over that of its plain layer, by case."""
        base = GROUPS[group][name].base
        found = {case: ratio(row, name, base) for case, row in self.options(group, mode).items()}
        return {case: value for case, value in found.items() if value}

    def truncated(self) -> dict[Case, float]:
        """How many times faster the truncated backward is, by case."""
        found = {case: self.rows.get(f"truncated {case}") for case in VARIANT_CASES}
        return {case: ratio(row, "full", "truncated") for case, row in found.items() if row}

    def kind(self, kind: str) -> list[dict]:
        return [row for key, row in self.rows.items() if key.startswith(kind + " ")]


def ratio(row: dict, peer: str, ours: str = "rnnkernels") -> float | None:
    times = row["times"]
    return times[peer]["median"] / times[ours]["median"] if peer in times and ours in times else None


def best_peer(row: dict) -> str:
    """The fastest of a row's peers."""
    times = row["times"]
    return min((who for who in times if not who.startswith("rnnkernels")), key=lambda who: times[who]["median"])


def share(row: dict, who: str = "rnnkernels") -> float:
    """Share of the multiply-add peak the products of the whole layer reach."""
    return row["gflop"] / row["times"][who]["median"] / row["peak_gflops"]


def unquiet(row: dict) -> str:
    """The mark of a row timed on a machine that others used too."""
    return " †" if row["other_cores"] > BUSY_CORES else ""


def geometric(values) -> float:
    values = list(values)
    return math.exp(sum(map(math.log, values)) / len(values)) if values else math.nan


def table(head: list[str], rows: list[list[str]], numbers: bool = True) -> str:
    lines = [head, ["---", *["---:" if numbers else "---"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def times_x(value: float | None, floor: float = 1.0) -> str:
    """A speed-up; bold where it loses."""
    if value is None or math.isnan(value):
        return ""
    text = f"{value:.2f}x"
    return f"**{text}**" if value < floor else text


def ms(t: dict) -> str:
    return f"{t['median'] * 1e3:.3g} [{t['q1'] * 1e3:.3g}, {t['q3'] * 1e3:.3g}]"


def us(t: dict) -> str:
    return f"{t['median'] * 1e6:.0f} [{t['q1'] * 1e6:.0f}, {t['q3'] * 1e6:.0f}]"


# --- the targets ----------------------------------------------------------------------------------------------------


def verdict(what: str, target: str, measured: str, met: bool | None) -> list[str]:
    """A line of the targets; met is None where nothing was measured."""
    word = "not measured" if met is None else "yes" if met else "**no**"
    return [what, target, measured, word, REASONS.get(what, "") if met is False else ""]


def target_table(lines: list[list[str]]) -> str:
    """With a column of reasons where there are any."""
    width = 5 if any(line[4] for line in lines) else 4
    return table(["", "target", "measured", "met", "why not"][:width], [line[:width] for line in lines], numbers=False)


def targets(run: Run) -> list[list[str]]:
    """Every target beside what was measured: [what, target, measured, met, why not]."""
    lines: list[list[str]] = []

    def line(what: str, target: str, measured: str, met: bool | None) -> None:
        lines.append(verdict(what, target, measured, met))

    def speed(cell: str, peer: str, mode: str, mean: float | None, floor: float) -> None:
        found = run.speedups(cell, peer, mode)
        what = f"{TITLES[cell]} vs {PEERS[peer]}, {MODES[mode]}"
        target = (f"mean >= {mean}x, " if mean else "") + f"no row below {floor}x"
        if not found:
            return line(what, target, "", None)
        absent = sum(case.T > 1 for case in GRID) - len(found)
        missing = f", {absent} rows not measured" if absent else ""
        average, (worst, least) = geometric(found.values()), min(found.items(), key=lambda item: item[1])
        line(
            what,
            target,
            f"mean {average:.2f}x, least {least:.2f}x ({worst})" + missing,
            average >= (mean or 0) and least >= floor,
        )

    speed("lstm", "torch", "inference", 1.8, 1.15)
    speed("lstm", "torch", "training", 1.6, 1.1)
    speed("gru", "torch", "inference", 3, 1.15)
    speed("gru", "torch", "training", 4, 1.3)
    speed("rnn_tanh", "torch", "inference", 2.5, 1.1)
    speed("rnn_tanh", "torch", "training", 3, 1.1)
    speed("lstm", "onnxruntime", "inference", 1.1, 0.95)
    speed("gru", "onnxruntime", "inference", 1.6, 0.95)
    speed("rnn_tanh", "onnxruntime", "inference", None, 0.95)

    ticks = [row for row in run.layers if row["T"] == 1 and row["threads"] == 2 and row["cell"] in TORCH]
    for peer, floor in (("torch cell", 2.0), ("onnxruntime", 1.2)):
        found = {row["cell"]: ratio(row, peer, "rnnkernels cell") for row in ticks}
        line(
            f"one tick vs {PEERS[peer]}",
            f">= {floor}x",
            ", ".join(f"{TITLES[c]} {v:.2f}x" for c, v in found.items()),
            min(found.values()) >= floor if found else None,
        )

    for mode, floor in (("inference", 0.75), ("training", 0.65)):
        found = {
            f"{row['cell']} {case_of(row)}": share(row)
            for row in run.layers
            if row["B"] >= 32
            and row["H"] >= 256
            and row["mode"] == mode
            and row["threads"] == 2
            and row["cell"] in TORCH
        }
        measured = ""
        if found:
            worst = min(found, key=found.get)
            measured = f"{found[worst]:.0%} ({worst}) to {max(found.values()):.0%}"
        line(
            f"LSTM, GRU, RNN: share of FMA peak, B >= 32, H >= 256, {MODES[mode]}",
            f">= {floor:.0%}",
            measured,
            min(found.values()) >= floor if found else None,
        )

    for mode in MODES:
        found = {
            f"{row['cell']} {case_of(row)}": row["times"]["rnnkernels"]["factor"]
            for row in run.kind("busy")
            if row["mode"] == mode
        }
        measured = ""
        if found:
            worst = max(found, key=found.get)
            measured = f"{min(found.values()):.1f}x to {found[worst]:.1f}x ({worst})"
        line(
            f"slow-down beside two busy processes, {MODES[mode]}",
            "at most 4x",
            measured,
            max(found.values()) <= 4 if found else None,
        )

    for mode, target in (("training", "at most torch.nn's"), ("inference", "outputs + packed weights + 8 MiB")):
        found = {
            f"{row['cell']} {case_of(row)}": row["bytes"]["rnnkernels"]
            / (row["bytes"]["torch"] if mode == "training" else row["bound"])
            for row in run.kind("memory")
            if row["mode"] == mode
        }
        measured = ""
        if found:
            worst = max(found, key=found.get)
            measured = f"{min(found.values()):.0%} to {found[worst]:.0%} of it ({worst})"
        line(f"peak memory, {MODES[mode]}", target, measured, max(found.values()) <= 1 if found else None)
    return lines


def variant_targets(run: Run) -> list[list[str]]:
    """The same of variants, options and online learning."""
    lines: list[list[str]] = []

    def line(what: str, target: str, measured: str, met: bool | None) -> None:
        lines.append(verdict(what, target, measured, met))

    for mode, (mean, floor) in VARIANT_TARGETS.items():
        for name, variant in VARIANTS.items():
            if mode not in variant.modes:
                continue
            what, target = f"{name} over the best peer: {MODES[mode]}", f"mean >= {mean:g}x, no row below {floor}x"
            found = run.over_best(name, mode)
            if not found:
                line(what, target, "", None)
                continue
            average, (worst, least) = geometric(found.values()), min(found.items(), key=lambda item: item[1])
            absent = len(variant.cases) - len(found)
            missing = f", {absent} rows not measured" if absent > 0 else ""
            measured = f"mean {average:.2f}x, least {least:.2f}x ({worst}){missing}"
            line(what, target, measured, average >= mean and least >= floor)

    for group, name, option, mode in limits():
        found = run.cost(group, name, mode)
        what, measured = f"{name} over {option.base}: {MODES[mode]}", ""
        if found:
            worst = max(found, key=found.get)
            measured = f"mean {geometric(found.values()):.2f}x, most {found[worst]:.2f}x ({worst})"
        line(what, limit_of(option), measured, max(found.values()) <= option.most if found else None)

    found = run.truncated()
    measured = ""
    if found:
        worst = min(found, key=found.get)
        measured = f"mean {geometric(found.values()):.2f}x, least {found[worst]:.2f}x ({worst})"
    line(
        "truncated backward of LSTM1997 over its full gradient's",
        f"at least {TRUNCATED}x faster",
        measured,
        min(found.values()) >= TRUNCATED if found else None,
    )

    for gradient in ("full", "truncated"):
        row = run.rows.get(f"online {gradient}")
        ours = row["times"]["rnnkernels"]["median"] * 1e6 if row else math.nan
        measured = f"{ours:.0f} us; torch.nn.LSTM {row['times']['torch']['median'] * 1e6:.0f} us" if row else ""
        what = f"LSTM1997 of 12 units, {gradient} gradient, a sequence of 12 ticks"
        line(what, f"at most {ONLINE_US:.0f} us", measured, ours <= ONLINE_US if row else None)

    rows = run.kind("recompute")
    measured = ", ".join(f"{row['cell']} {row['bytes'] / MIB:.0f} MiB" for row in rows)
    met = all(row["bytes"] <= row["bound"] for row in rows) if rows else None
    line(
        "recompute: memory of a training step",
        "at most 128 MiB beyond inputs, outputs, weights, gradients",
        measured,
        met,
    )
    return lines


def ntm_targets(run: Run) -> list[list[str]]:
    """The same of the Neural Turing Machine."""
    lines: list[list[str]] = []
    for row in ROWS:
        for mode, peer, least in row.targets:
            found = run.rows.get(f"ntm {row} {mode}")
            times = found and ratio(found, peer)
            measured = f"{times:.1f}x" if times else ""
            lines.append(
                verdict(
                    f"NTM, {row}, over {peer}: {MODES[mode]}",
                    f">= {least:g}x" if least > 1 else "faster",
                    measured,
                    times >= least if times else None,
                )
            )
    found = {row: run.rows.get(f"ntm-memory {row}") for row in COMPILED}
    shares = [r["bytes"]["rnnkernels"] / r["bytes"]["eager"] for r in found.values() if r]
    measured = f"{min(shares):.0%} to {max(shares):.0%} of it" if shares else ""
    met = max(shares) <= 0.5 if shares else None
    lines.append(verdict("NTM: peak memory of a training step", "at most half of eager's", measured, met))
    row = run.rows.get("ntm-recompute")
    lines.append(
        verdict(
            "NTM, T = 10,000, B = 16, recomputed: memory of a training step",
            "at most 256 MiB beyond inputs, outputs, weights",
            f"{row['bytes'] / MIB:.0f} MiB" if row else "",
            row["bytes"] <= row["bound"] if row else None,
        )
    )
    return lines


def limits() -> list[tuple[str, str, Option, str]]:
    """Group, name and option of everything that has a limit, by mode."""
    named = [(group, name, option) for group, options in GROUPS.items() for name, option in options.items()]
    return [(*each, mode) for each in named if each[2].base for mode in each[2].modes]


def limit_of(option: Option) -> str:
    """The limit in words."""
    return f"at most {option.most:g}x"


def case_of(row: dict) -> Case:
    return Case(row["T"], row["B"], row["I"], row["H"])


# --- the tables -----------------------------------------------------------------------------------------------------


def grid_table(run: Run, cell: str, mode: str, threads: int) -> str:
    rows = [(case, row) for case in GRID if (row := run.find(cell, case, mode, threads)) and case.T > 1]
    if not rows:
        return ""
    peers = [peer for peer in PEERS if any(peer in row["times"] for _, row in rows)]
    body = []
    for case, row in rows:
        ours = row["times"]["rnnkernels"]
        body.append(
            [
                f"{case}{unquiet(row)}",
                ms(ours),
                f"{row['gflop'] / ours['median']:.0f}",
                f"{share(row):.0%}",
                *(times_x(ratio(row, peer)) for peer in peers),
            ]
        )
    for label, fold in (("geometric mean", geometric), ("least", min)):
        body.append(
            [
                label,
                "",
                "",
                "",
                *(
                    times_x(fold(v)) if (v := list(run.speedups(cell, peer, mode, threads).values())) else ""
                    for peer in peers
                ),
            ]
        )
    noun = "thread" if threads == 1 else "threads"
    return f"#### {TITLES.get(cell, cell)}, {MODES[mode]}, {threads} {noun}\n\n" + table(
        ["case", "rnnkernels ms [quartiles]", "GFLOP/s", "of peak", *(f"vs {PEERS[p]}" for p in peers)], body
    )


def tick_table(run: Run) -> str:
    body = []
    for row in (row for row in run.layers if row["T"] == 1):
        times = row["times"]
        who = ["rnnkernels cell", "rnnkernels", "torch cell", "torch", "onnxruntime", "eager loop", "compiled loop"]
        body.append(
            [
                f"{TITLES.get(row['cell'], row['cell'])}, {row['threads']} thr",
                *(f"{times[w]['median'] * 1e6:.1f}" if w in times else "" for w in who),
            ]
        )
    return (
        table(
            [
                "one tick (1, 1, 256), us",
                "rk Cell",
                "rk layer",
                "torch Cell",
                "torch.nn",
                "ONNX Runtime",
                "eager loop",
                "compiled loop",
            ],
            body,
        )
        if body
        else ""
    )


def busy_table(run: Run) -> str:
    who = ("rnnkernels", "torch", "onnxruntime")
    body = [
        [
            f"{TITLES.get(row['cell'], row['cell'])} {case_of(row)}, {MODES[row['mode']]}",
            *(
                f"{t['factor']:.1f}x ({t['quiet']['median'] * 1e3:.3g} to {t['busy']['median'] * 1e3:.3g} ms)"
                if (t := row["times"].get(w))
                else ""
                for w in who
            ),
        ]
        for row in run.kind("busy")
    ]
    return table(["slow-down", "rnnkernels", "torch.nn", "ONNX Runtime"], body) if body else ""


def memory_table(run: Run) -> str:
    body = []
    for row in run.kind("memory"):
        ours, torchs = row["bytes"]["rnnkernels"], row["bytes"]["torch"]
        limit = row.get("bound", torchs)
        body.append(
            [
                f"{TITLES.get(row['cell'], row['cell'])} {case_of(row)}, {MODES[row['mode']]}",
                f"**{ours / MIB:.1f}**" if ours > limit else f"{ours / MIB:.1f}",
                f"{torchs / MIB:.1f}",
                f"{row['bound'] / MIB:.1f}" if "bound" in row else "",
            ]
        )
    return table(["peak MiB of one call", "rnnkernels", "torch.nn", "outputs + weights + 8 MiB"], body) if body else ""


def variant_table(run: Run, name: str) -> str:
    body = []
    for mode in MODES:
        for case, row in run.variant(name, mode).items():
            times, best = row["times"], best_peer(row)
            body.append(
                [
                    f"{case}, {MODES[mode]}{unquiet(row)}",
                    ms(times["rnnkernels"]),
                    PEERS[best],
                    times_x(ratio(row, best), VARIANT_TARGETS[mode][1]),
                    *(f"{times[who]['median'] * 1e3:.3g}" if who in times else "" for who in VARIANT_PEERS),
                ]
            )
    if not body:
        return ""
    head = ["case", "rnnkernels ms [quartiles]", "best peer", "over it", *(f"{PEERS[w]} ms" for w in VARIANT_PEERS)]
    return f"#### {name}\n\n" + table(head, body)


def option_table(run: Run, group: str, mode: str) -> str:
    rows = run.options(group, mode)
    if not rows:
        return ""
    body = []
    for name, option in GROUPS[group].items():
        if mode not in option.modes:
            continue
        line = [name, option.base or "", limit_of(option) if option.base else ""]
        for row in rows.values():
            time = row["times"].get(name)
            over = ratio(row, name, option.base) if option.base else None
            text = "" if over is None else f"**{over:.2f}x** " if over > option.most else f"{over:.2f}x "
            line.append(f"{text}({time['median'] * 1e3:.3g} ms)" if time else "")
        body.append(line)
    head = ["", "time over", "limit", *(f"{case}{unquiet(row)}" for case, row in rows.items())]
    return f"#### {group}, {MODES[mode]}\n\n" + table(head, body)


def truncated_table(run: Run) -> str:
    body = []
    for row in run.kind("truncated"):
        times = row["times"]
        faster = times_x(ratio(row, "full", "truncated"), TRUNCATED)
        body.append([f"{case_of(row)}{unquiet(row)}", ms(times["full"]), ms(times["truncated"]), faster])
    return table(["backward of LSTM1997", "full ms [quartiles]", "truncated ms", "faster"], body) if body else ""


def online_table(run: Run) -> str:
    who = {"rnnkernels": "LSTM1997", "rnnkernels LSTM": "rk.LSTM", "torch": "torch.nn.LSTM"}
    body = [
        [f"{row['gradient']} gradient{unquiet(row)}", *(us(row["times"][w]) for w in who)] for row in run.kind("online")
    ]
    head = ["forward + backward of a sequence, one thread", *(f"{name} us [quartiles]" for name in who.values())]
    return table(head, body) if body else ""


def ntm_table(run: Run) -> str:
    body = []
    for row in ROWS:
        for mode in ("training", "inference"):
            if not (found := run.rows.get(f"ntm {row} {mode}")):
                continue
            times = found["times"]
            memory = run.rows.get(f"ntm-memory {row}") if mode == "training" else None
            body.append(
                [
                    f"{row}, {MODES[mode]}{unquiet(found)}",
                    *(ms(times[who]) if who in times else "" for who in ("rnnkernels", "eager", "compiled")),
                    *(times_x(ratio(found, who)) if who in times else "" for who in ("eager", "compiled")),
                    *(f"{memory['bytes'][w] / MIB:.1f}" if memory else "" for w in ("rnnkernels", "eager")),
                ]
            )
    head = ["copy task, memory N x 20, controller 100", "rnnkernels ms [quartiles]", "eager ms", "compiled ms"]
    head += ["over eager", "over compiled", "peak MiB", "eager's"]
    return table(head, body) if body else ""


def section(run: Run) -> str:
    h = run.header
    dates = sorted(row["date"][:10] for row in run.rows.values())
    revisions = sorted({row["revision"] for row in run.rows.values()})
    loads = [row["load"] for row in run.rows.values()]
    quiet = sum(not unquiet(row) for row in run.layers)
    peaks = {row["threads"]: (row["peak_gflops"], row["peak_how"]) for row in run.layers}
    compiled = [t["prepare"] for row in run.layers if (t := row["times"].get("compiled loop"))]
    facts = [
        f"torch {h['software']['torch']} ({h['software']['torch_cpu']}), ONNX Runtime {h['software']['onnxruntime']}, "
        f"Python {h['software']['python']}, {h['machine']['system']}",
        f"measured {dates[0]} to {dates[-1]}, revision {', '.join(revisions)}, "
        f"load average {min(loads):.1f} to {max(loads):.1f}",
        "; ".join(
            f"peak on {n} thread{'s' * (n > 1)} {rate:.0f} GFLOP/s ({how})" for n, (rate, how) in sorted(peaks.items())
        ),
    ]
    facts = [fact for fact in facts if fact]
    shared = [row for row in run.rows.values() if "other_cores" in row and row not in run.layers]
    facts.append(
        f"{quiet} of {len(run.layers)} rows of the grid and {sum(not unquiet(row) for row in shared)} of {len(shared)} "
        f"others on a quiet machine; † marks those beside which others used more than {BUSY_CORES} cores"
    )
    if compiled:
        facts.append(f"compiling one tick took {min(compiled):.1f} to {max(compiled):.1f} s a row, not in the times")
    variants = run.kind("variant")
    for who in ("compiled loop", "TorchScript"):
        seconds = [t["prepare"] for row in variants if (t := row["times"].get(who))]
        if seconds:
            facts.append(
                f"variants: {who} took {min(seconds):.1f} to {max(seconds):.1f} s to prepare a row, not in the times"
            )
    if variants:
        loops = sum("compiled loop" in row["times"] for row in variants)
        facts.append(f"the tick was compiled for {loops} of {len(variants)} rows of the variants")
    parts = [
        f"## {run.title}\n",
        "\n".join(f"- {fact}" for fact in facts) + "\n",
        f"![{run.name}](results/{run.name}.png)\n" if run.layers else "",
        "### Targets (two threads)\n",
        target_table(targets(run)),
        "### Targets of variants and options (two threads; a sequence at a time: one)\n",
        target_table(variant_targets(run)),
        "### Targets of the Neural Turing Machine (two threads)\n",
        target_table(ntm_targets(run)),
        "### One tick\n",
        tick_table(run),
        "### Beside two busy processes\n",
        busy_table(run),
        "### Peak memory\n",
        memory_table(run),
        "### A sequence at a time\n",
        online_table(run),
        "### Variants, two threads\n",
        *(variant_table(run, name) for name in VARIANTS),
        "### Options over the plain layer, two threads\n",
        *(option_table(run, group, mode) for group in GROUPS for mode in MODES),
        truncated_table(run),
        "### The Neural Turing Machine, two threads\n",
        ntm_table(run),
        "### The grid\n",
    ]
    parts += [grid_table(run, cell, mode, n) for cell in run.cells for mode in MODES for n in (2, 1)]
    return "\n".join(part for part in parts if part)


HEAD = """# Bench results

Rendered by `python -m bench.report` from `bench/results/*.json`; measured by `make bench`. float32; times are medians
of rounds in which the contestants take turns in one process, with quartiles. A speed-up is the peer's median over
rnnkernels'; **bold** marks what loses. GFLOP/s count the layer's products, 2 T B G H (I + H), three times that for
forward + backward, whose loss is sum(out * a fixed gradient) with gradients of inputs and weights. The compiled loop is
one tick under torch.compile in a Python loop over T. Every row's output and gradients were held against a float64
reference before timing.

Peers of the variants are loops over the ticks with the input product hoisted and the gates in one product
(bench/loops.py): eager, under TorchScript, and with the tick under torch.compile, this last for part of the rows, since
compiling takes longer than timing one; and ONNX Runtime where it has the cell, in inference. The best of them counts.
Loops of a layer with random masks draw theirs in every call, as the layer does. An option's time is divided by the
plain layer's in the same rounds; lengths are spread evenly over 1 to T, and packed rows of such lengths are compared
with a padded call of as many frames.

The Neural Turing Machine's peer is the one in plain torch, which loops over the ticks and over nothing else
(rnnkernels/reference/ntm.py), eager and with its tick under torch.compile; T 42 is the copy task of 20 vectors.
"""


# --- the plot -------------------------------------------------------------------------------------------------------


def plot(run: Run) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    cases = [case for case in GRID if case.T > 1]
    panels: list[tuple[str, str, Callable[[dict], float | None]]] = [
        (mode, what, get)
        for mode in MODES
        for what, get in (
            ("speed-up over torch.nn (MinimalGRU: eager loop)", lambda r: ratio(r, "torch") or ratio(r, "eager loop")),
            ("speed-up over ONNX Runtime", lambda r: ratio(r, "onnxruntime"))
            if mode == "inference"
            else ("speed-up over the compiled loop", lambda r: ratio(r, "compiled loop")),
            ("share of the FMA peak", share),
        )
    ]
    figure, axes = plt.subplots(2, 3, figsize=(17, 9), constrained_layout=True)
    for axis, (mode, what, get) in zip(axes.flat, panels, strict=True):
        for index, cell in enumerate(run.cells):
            found = [(at, get(row)) for at, case in enumerate(cases) if (row := run.find(cell, case, mode, 2))]
            found = [(at, value) for at, value in found if value]
            if not found:
                continue
            at, values = zip(*found, strict=True)
            axis.plot(
                [a + 0.12 * (index - 1.5) for a in at], values, "o", color=f"C{index}", label=TITLES.get(cell, cell)
            )
            if get is share:  # torch.nn's own share, hollow
                rows = [run.find(cell, cases[a], mode, 2) for a in at]
                pairs = [(a, share(r, "torch")) for a, r in zip(at, rows, strict=True) if "torch" in r["times"]]
                if pairs:
                    axis.plot(
                        [a + 0.12 * (index - 1.5) for a, _ in pairs],
                        [v for _, v in pairs],
                        "o",
                        color=f"C{index}",
                        fillstyle="none",
                    )
        if get is share:
            axis.set_ylim(0, 1)
            axis.yaxis.set_major_formatter("{x:.0%}")
            what += " (hollow: torch.nn)"
        else:
            axis.set_yscale("log", base=2)
            axis.yaxis.set_major_formatter("{x:g}x")
            axis.axhline(1, color="black", linewidth=1)
        axis.set_title(f"{MODES[mode]}: {what}", fontsize=10)
        axis.set_xticks(
            range(len(cases)), [str(case).replace("-", " ") for case in cases], rotation=40, ha="right", fontsize=8
        )
        axis.grid(axis="y", alpha=0.3)
    axes[0, 0].legend(fontsize=8)
    figure.suptitle(f"rnnkernels on {run.title}; two threads, float32", fontsize=11)
    figure.savefig(FOLDER / f"{run.name}.png", dpi=90)
    plt.close(figure)


# --- the README's block ---------------------------------------------------------------------------------------------


def readme_block(runs: list[Run]) -> str:
    parts = []
    for run in runs:
        columns = [
            ("torch.nn, inference", "torch", "inference"),
            ("ONNX Runtime, inference", "onnxruntime", "inference"),
            ("torch.nn, forward + backward", "torch", "training"),
            ("compiled loop, forward + backward", "compiled loop", "training"),
        ]
        body = []
        for cell in run.cells:
            line = [TITLES.get(cell, cell)]
            for _, peer, mode in columns:
                found = run.speedups(cell, peer, mode).values()
                line.append(f"{geometric(found):.1f}x ({times_x(min(found))} to {max(found):.1f}x)" if found else "-")
            body.append(line)
        parts.append(
            f"{run.title}, two threads, float32, measured {max(r['date'][:10] for r in run.rows.values())}, "
            f"torch {run.header['software']['torch']}. Speed-up over the peer, geometric mean (least to most) over the "
            "grid:\n\n" + table(["layer", *(head for head, *_ in columns)], body)
        )
        parts += variant_summary(run)
        parts += ntm_summary(run)
    return "\n".join(parts)


def ntm_summary(run: Run) -> list[str]:
    """The Neural Turing Machine over its peers in a small table; [] where not measured."""
    body = []
    for row in COMPILED:
        found = [run.rows.get(f"ntm {row} {mode}") for mode in MODES]
        if all(found):
            times = [[f"{r['times']['rnnkernels']['median'] * 1e3:.3g}"] for r in found]
            over = [[times_x(ratio(r, who)) or "-" for who in ("eager", "compiled")] for r in found]
            body.append([str(row.B), *times[0], *over[0], *times[1], *over[1]])
    head = [
        "batch",
        *(f"{mode}{what}" for mode in MODES.values() for what in (", ms", ", over eager", ", over compiled")),
    ]
    return [
        "The Neural Turing Machine on the copy task of 20 vectors, memory 128 x 20, controller 100, over the one in "
        "plain torch, which loops over nothing but the ticks, eager and with its tick compiled:\n\n" + table(head, body)
    ] * bool(body)


def variant_summary(run: Run) -> list[str]:
    """The variants over their best peers, and what options cost, in as few lines as may be; [] where not measured."""
    body = []
    for name in VARIANTS:
        line = [f"`{name}`" if name.isidentifier() or "(" in name else name]
        for mode in MODES:
            found = run.over_best(name, mode).values()
            text = f"{geometric(found):.1f}x ({times_x(min(found))} to {max(found):.1f}x)" if len(found) > 1 else ""
            line.append(text or "".join(times_x(v) for v in found) or "-")
        if line[1:] != ["-", "-"]:
            body.append(line)
    costs = {}
    for group, name, option, mode in limits():
        found = run.cost(group, name, mode).values()
        if mode == "training" and found:
            costs.setdefault(option.base, []).append(f"{name} {geometric(found):.2f}x")
    parts = []
    if body:
        cases = ", ".join(str(tuple(getattr(case, axis) for axis in "TBIH")) for case in VARIANT_CASES)
        parts.append(
            f"Variants over the best of an eager loop, TorchScript, torch.compile of the tick and, in inference, ONNX "
            f"Runtime; (T, B, I, H) = {cases}:\n\n" + table(["layer", *MODES.values()], body)
        )
    if costs:
        said = [f"- over {base}: {', '.join(each)}" for base, each in costs.items()]
        parts.append("Time of options, forward + backward, mean:\n\n" + "\n".join(said) + "\n")
    return parts


def write_block(page: Path, content: str) -> bool:
    """Rewrite the block of a page between the two marks; False where it has none."""
    text = page.read_text() if page.exists() else ""
    start, end = MARK.format("start"), MARK.format("end")
    if start not in text or end not in text:
        return False
    block = f"{start}\n{content}{end}"
    page.write_text(re.sub(re.escape(start) + ".*?" + re.escape(end), lambda _: block, text, flags=re.DOTALL))
    return True


def main() -> None:
    runs = [Run(path) for path in sorted(FOLDER.glob("*.json"), reverse=True) if not path.stem.endswith("-quick")]
    runs = [run for run in runs if run.rows]
    if not runs:
        raise SystemExit(f"no results in {FOLDER}: run `make bench` first")
    cards = sorted(p for p in card.CARDS.glob("*.json") if not p.stem.endswith("-trial"))  # of bench/gpu_trial.sh
    plotted = [run for run in runs if run.layers]
    for run in plotted:
        plot(run)
    write_block(GPU_PAGE, "\n".join(map(card.graphs, cards)))
    (HERE / "RESULTS.md").write_text(HEAD + "\n" + "\n".join([*map(section, runs), *map(card.section, cards)]))
    print(
        f"wrote {HERE / 'RESULTS.md'} and {len(plotted)} plot(s)"
        + (
            ", and the table of README.md"
            if write_block(README, readme_block(runs))
            else f"; {README.name} has no {MARK.format('start')} block"
        )
    )


if __name__ == "__main__":
    main()
