"""Which check notices when a barrier or a bounds check of csrc/cuda/*.cuh is missing.

Takes away, one at a time, each barrier (`__syncthreads`, `__syncwarp`, a grid's `sync`) and each condition that keeps
a thread to what is its own: a guard always lets pass, a striding loop makes one turn more. Builds tests/cuda_driver.cpp
of that, with a few of the cells, and runs it: barriers and choices of one thread under ThreadSanitizer, others plainly,
to compare results; where these notice nothing, the other ways too. Prints a table. What SURVIVED is either
no fault (EQUIVALENT below says why) or a hole in the driver.

    python tests/cuda_on_cpu/mutate.py [FILE[:LINE] ...] [--list] [--again]

Results are kept in build/mutate/results.json, by the text of the line: what stands there is not run again, unless
--again says so. 2 to 40 seconds a mutant, half an hour in all on a quiet machine; not for CI.
"""

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
WORK = ROOT / "build/mutate"
sys.path.insert(0, str(HERE))
from rewrite import NO_CODE  # noqa: E402

KINDS = ["sync", "owner", "guard", "bound"]
FILES = ["step.cuh", "team.cuh", "ntm.cuh", "persistent.cuh", "panel.cuh"]
# Every kind of cell: of one stage and two, with parameters, without products, normalised, with several fed states.
UNITS = {
    "step.cuh": ["sweep_float", "persistent_float", "persistent_halves"],
    "team.cuh": ["ntm_float"],
    "ntm.cuh": ["ntm_float"],
    "persistent.cuh": ["persistent_float", "persistent_halves"],
    "panel.cuh": ["persistent_halves", "persistent_float"],
}
MODES = ["plain", "thread", "address"]
NORMALISED = ["layernorm_lstm", "layernorm_gru"]  # whose kernels have all barriers of step.cuh
CELLS = ["Lstm", "MinimalGru", "PeepholeLstm", "IndRnn", "LayerNormLstm", "LayerNormGru", "Lstm1997Open"]
SECONDS = 100  # that a driver may run: it is far quicker, unless it waits for ever

# Conditions that are none of ownership or bounds: how blocks are laid out, what a mask is, values compared.
NO_BOUND = re.compile(r"lanes < most|m\.source|gradient_clip|cudaSuccess|blocks > 0|most =|b > a \?|S > 0")

# Mutants that change nothing: file, what the line says, which of those that say so, what was mutated, and why.
EQUIVALENT = [
    ("step.cuh", "who came before", 1, "no", "its callers meet between two sums of one size"),
    ("step.cuh", "prepare(m, c.time.steps() > 0", 1, "> 0", "the ops make no call of no ticks"),
    ("step.cuh", "&& prepares; unit +=", 1, "<=", "`prepare` looks itself"),
    ("step.cuh", "product[s] = s < count", 1, "s < count", "`fed` says how many of them are read"),
    ("step.cuh", "c.state_before(kept, s, t, b, m.zeros)", 1, "s > 0", "no cell that may be projected reads h there"),
    ("step.cuh", "t > c.time.begin && b >=", 1, "> -> >=", "the tick of a row that never lives is not used"),
    ("team.cuh", "__syncthreads();", 2, "no", "after `once` the next step ends with a barrier before anybody reads"),
    ("team.cuh", "k + 4 <= depth", 1, "<= -> <", "the loop behind it takes the last four"),
    ("ntm.cuh", "if (end == begin) continue;", 1, "end", "what a row that has ended remembers is not used"),
    ("ntm.cuh", "if (s > 0) a.next[s]", 1, "s > 0", "nobody reads h after the tick there"),
    ("persistent.cuh", "the next ones' addresses", 1, "no", "it keeps the compiler from holding addresses"),
    ("persistent.cuh", "return q < l.chunks", 1, "q <", "`multiply` stops before it, and `weight` looks itself"),
    ("persistent.cuh", "if (M::kPanel.scratch > 0)", 1, "scratch", "one barrier more where nothing lies there"),
    ("persistent.cuh", "first < last; first += l.pass", 1, "<=", "one turn more over no rows"),
    ("persistent.cuh", "i < n; i += kWalkThreads) f(", 1, "<=", "it is walked for hints alone, which read nothing"),
    ("persistent.cuh", "if (rows > 0) {", 1, "rows", "none are staged and none multiplied"),
    ("persistent.cuh", "return rows > slice", 1, "> slice", "the quotient is 0 there by itself"),
    ("persistent.cuh", "if (next < 0) break;", 1, "next", "one barrier more before all end"),
    ("persistent.cuh", "if (step < 0) break;", 1, "step", "one barrier more before all end"),
]

SYNC = re.compile(r"(?:__syncthreads\(\)|__syncwarp\([^()]*\)|[\w:().]+\.sync\(\));")
COMPARISON = re.compile(r" (<=|>=|<|>|==) ")
CALL = re.compile(r"(?:this->)?lives\([^()]*\)")


def is_compile_time(line):
    return re.search(r"constexpr|static_assert|template <|requires|^\s*#|f\.stages|struct ", line)


def operands(code, start, end):
    """The whole comparison around an operator: to the next , ; ? : && || = or bracket that is not its own."""
    depth, a = 0, start
    while a > 0:
        c = code[a - 1]
        if c in ")]":
            depth += 1
        elif c in "([{":
            if depth == 0:
                break
            depth -= 1
        elif depth == 0 and (c in ",;?{}" or re.search(r"(?:&&|\|\||: |=\s|return )$", code[a - 8 : a])):
            break
        a -= 1
    depth, b = 0, end
    while b < len(code):
        c = code[b]
        if c in "([":
            depth += 1
        elif c in ")]}":
            if depth == 0:
                break
            depth -= 1
        elif depth == 0 and (c in ",;?" or code[b : b + 2] in ("&&", "||") or code[b : b + 2] == ": "):
            break
        b += 1
    a += re.match(r"(?:\s|!|RNN_ROLLED\b|for \([^;]*;[^;]*;[^\n]*\)\n)*", code[a:b]).end()
    while code[b - 1].isspace():
        b -= 1
    return a, b


def header(code, at):
    """The keyword and the text of the brackets around `at`: if, for, while, or whatever stands there."""
    depth, i = 0, at
    while i > 0:
        i -= 1
        if code[i] in ")]}":
            depth += 1
        elif code[i] in "([{":
            if depth == 0:
                break
            depth -= 1
    word = re.search(r"(\w*)\s*$", code[:i]).group(1)
    end, depth = i, 0
    while end < len(code):
        depth += {"(": 1, ")": -1}.get(code[end], 0)
        end += 1
        if depth == 0:
            break
    return word, code[i:end], code[end : end + 40]


def mutants(name):
    """(line, what it says, kind, from, to, replacement) of a file."""
    text = (ROOT / "csrc/cuda" / name).read_text()
    code = NO_CODE.sub(lambda m: re.sub(r"[^\n]", "_", m[0]) if m[0][0] in "/\"'" else m[0], text)
    lines = text.splitlines()
    found = []

    def add(kind, a, b, to):
        number = text.count("\n", 0, a) + 1
        found.append((number, lines[number - 1].strip(), kind, a, b, to))

    for m in SYNC.finditer(code):
        add("sync", *m.span(), ";")
    for m in COMPARISON.finditer(code):
        line = code[code.rfind("\n", 0, m.start()) + 1 : code.find("\n", m.end())]
        if is_compile_time(line) or NO_BOUND.search(line):
            continue
        word, around, behind = header(code, m.start())
        if word in ("for", "while") and m[1] != "==":
            if word == "for" and not re.search(r"threadIdx|stride|\+= |&&", around):
                continue
            # One turn more.
            add("bound", *m.span(1), {"<": "<=", ">": ">=", ">=": ">", "<=": "<"}[m[1]])
            continue
        a, b = operands(code, m.start(), m.end())
        if re.search(r"Cell::|\bof\.", code[a:b]):
            continue
        leaves = "empty()" in line or word == "if" and re.match(r"\s*(return|continue|break)\b", behind)
        add("owner" if re.search("thread|lane", code[a:b]) else "guard", a, b, "false" if leaves else "true")
    for m in CALL.finditer(code):
        if not code[m.end() :].startswith(" const"):
            add("guard", *m.span(), "true")
    return sorted(found)


def why_equivalent(key):
    file, says, what, nth = key.split("|||")
    same = (
        why for f, line, n, part, why in EQUIVALENT if f == file and line in says and part in what and n == int(nth)
    )
    return next(same, None)


class Tree:
    """A copy of what the driver is built of, once as it is. A mutant is compiled and linked beside it."""

    def __init__(self):
        self.held = set()
        for part in ["csrc", "tests/cuda_on_cpu", "CMakeLists.txt", "pyproject.toml"]:
            self.copy(ROOT / part)
        for file in ROOT.glob("tests/c*_driver*"):
            self.copy(file)
        cells = "#define RNN_CELLS(X)" + "".join(f" X({cell})" for cell in CELLS)
        of_all = re.compile(r"#define RNN_CELLS\(X\)(?:.*\\\n)+.*")
        self.write("csrc/cells/list.h", of_all.sub(cells, (ROOT / "csrc/cells/list.h").read_text()))
        command = ["cmake", "-S", WORK / "tree", "-B", WORK / "built", "-G", "Ninja", "--log-level=WARNING"]
        for file in [f for f in (WORK / "tree").rglob("*") if f.is_file() and f not in self.held]:
            file.unlink()
        subprocess.run([*command, "-DRNN_CUDA_DRIVER=ON", f"-DRNN_PYTHON={sys.executable}"], check=True)
        for mode in MODES:
            subprocess.run(["ninja", "-C", WORK / "built", "--quiet", "-j1", f"cuda_driver_{mode}"], check=True)

    def copy(self, source):
        for file in [source] if source.is_file() else source.rglob("*"):
            if file.is_file() and file.suffix != ".pyc" and file.name not in ("list.h", "mutate.py"):
                self.write(file.relative_to(ROOT), file.read_text())

    def write(self, name, text):  # what does not change is not built again
        to = WORK / "tree" / name
        self.held.add(to)
        if not to.exists() or to.read_text() != text:
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_text(text)

    def build(self, mode, units):
        """The driver with these units compiled anew: an error, or None."""
        objects = WORK / "mutant" / mode
        objects.mkdir(parents=True, exist_ok=True)
        driver = f"cuda_driver_{mode}"
        ask = ["ninja", "-C", WORK / "built", "-t", "commands", driver]
        commands = subprocess.run(ask, capture_output=True, text=True).stdout.splitlines()
        link = commands[-1].replace(f"-o {driver}", f"-o {objects}/driver")
        for unit in units:
            (compile_it,) = [c for c in commands if " -c " in c and c.endswith(f"/{unit}.cu.cpp")]
            old = re.search(r"-o (\S+\.o)", compile_it)[1]
            new = f"{objects}/{unit}.o"
            mutated = compile_it.replace(f"-o {old}", f"-o {new}").replace(f"{WORK}/built/re", f"{WORK}/mutant/re")
            done = subprocess.run(mutated, shell=True, cwd=WORK / "built", capture_output=True, text=True)
            if done.returncode:
                return next((s for s in done.stderr.splitlines() if "error" in s), "?")
            link = link.replace(old, new)
        subprocess.run(link, shell=True, cwd=WORK / "built", check=True)

    def notices(self, mode, words, units=()):
        """None, or who noticed and what was said."""
        if error := self.build(mode, units):
            return "the compiler", error
        environment = os.environ | {"TSAN_OPTIONS": "halt_on_error=1", "ASAN_OPTIONS": "detect_leaks=0"}
        try:
            command = [WORK / "mutant" / mode / "driver", *words]
            done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, env=environment)
        except subprocess.TimeoutExpired:
            return "the clock", f"more than {SECONDS} s"
        if not done.returncode:
            return None
        said = done.stdout + done.stderr
        for who, pattern in [
            ("ThreadSanitizer", r"ThreadSanitizer: (.*?)(?: \(pid.*)?$"),
            ("AddressSanitizer", r"AddressSanitizer: ([\w-]+)"),
            ("UBSan", r"runtime error: (.*)"),
            ("comparison", r"FAILED .*?: ((?:differs|depends|mask|somebody).*)"),
            ("a fence", r"FAILED (somebody.*)"),
            ("the shim", r"FAILED .*?: (.*)"),
        ]:
            if m := re.search(pattern, said, re.M):
                return who, m[1][:70]
        return "a crash", f"exit status {done.returncode}"


def ways(file, kind):
    """Builds, words to run them with, and what is compiled for it, the likeliest first."""
    part = "ntm" if file in ("ntm.cuh", "team.cuh") else "layers"
    some = NORMALISED if file == "step.cuh" else [part]
    thread, plain, address = ("thread", ["thin", *some]), ("plain", ["stop", part]), ("address", ["stop", part])
    order = [thread, plain, address] if kind in ("sync", "owner") else [plain, address, thread]
    units = UNITS[file]
    return [(*way, units[:1]) for way in order[:1]] + [(*way, units) for way in order[len(units) == 1 :]]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", nargs="*", help="files or lines; none: all")
    parser.add_argument("--kind", action="append", choices=KINDS, help="several times")
    parser.add_argument("--list", action="store_true", help="name the mutants, run none")
    parser.add_argument("--again", action="store_true", help="run what has been run")
    arguments = parser.parse_args()

    todo = []
    for file in FILES:
        text, seen = (ROOT / "csrc/cuda" / file).read_text(), {}
        for number, says, kind, a, b, to in mutants(file):
            what = f"{text[a:b]} -> {to}" if kind != "sync" else f"no {text[a:b]}"
            nth = seen[says, what] = seen.get((says, what), 0) + 1
            wanted = not arguments.which or {file, f"{file}:{number}"} & set(arguments.which)
            if wanted and (not arguments.kind or kind in arguments.kind):
                todo.append(
                    (f"{file}|||{says}|||{what}|||{nth}", file, number, says, kind, what, text[:a] + to + text[b:])
                )
    todo.sort(key=lambda m: (KINDS.index(m[4]), FILES.index(m[1])))
    if arguments.list:
        for _, file, number, says, kind, what, _ in todo:
            print(f"{file}:{number} {kind} `{what}` in `{says}`")
        return print(len(todo), "mutants")

    kept = WORK / "results.json"
    results = json.loads(kept.read_text()) if kept.exists() else {}
    tree = Tree()
    now = hashlib.sha256(b"".join(f.read_bytes() for f in sorted(tree.held))).hexdigest()
    if results.get("passed") != now:
        for mode, words in [("plain", []), ("thread", ["thin"]), ("address", [])]:
            if said := tree.notices(mode, words):
                sys.exit(f"without a mutant already: {mode}: {said}")
        results["passed"] = now
        kept.write_text(json.dumps(results, indent=1))
    for key, file, number, _, kind, what, text in todo:
        if key in results and not arguments.again:
            continue
        start = time.monotonic()
        tree.write(f"csrc/cuda/{file}", text)
        rewritten = WORK / "mutant/rewritten"
        subprocess.run([sys.executable, HERE / "rewrite.py", WORK / "tree/csrc/cuda", rewritten], check=True)
        said = next(filter(None, (tree.notices(*way) for way in ways(file, kind))), None)
        results[key] = {"noticed": said, "seconds": round(time.monotonic() - start)}
        tree.write(f"csrc/cuda/{file}", (ROOT / "csrc/cuda" / file).read_text())
        kept.write_text(json.dumps(results, indent=1))
        print(f"{file}:{number} {what}: {said or 'SURVIVED'}, {results[key]['seconds']} s", file=sys.stderr, flush=True)

    print("| where | mutant | noticed by | what it said |\n|---|---|---|---|")
    for key, file, number, _, _, what, _ in sorted(todo, key=lambda m: (FILES.index(m[1]), m[2])):
        why = why_equivalent(key)
        by = results[key]["noticed"] or ["nobody, it is the same" if why else "SURVIVED", why or ""]
        cells = (f"{file}:{number}", f"`{what}`", *by)
        print("|", " | ".join(c.replace("|", "\\|").replace("\n", " ") for c in cells), "|")
    survivors = [m for m in todo if not results[m[0]]["noticed"]]
    print(f"\n{len(todo)} mutants, {len(todo) - len(survivors)} noticed,", end=" ")
    holes = [m for m in survivors if not why_equivalent(m[0])]
    print(len(survivors) - len(holes), "change nothing,", len(holes), "SURVIVED")


if __name__ == "__main__":
    main()
