"""Rewrites the few things of CUDA that C++ cannot express, so that g++ compiles the rest as it stands.

    kernel<T, 3><<<grid, block>>>(x)     CUDA_ON_CPU_KERNEL(kernel<T, 3>)(grid, block)(x)
    __shared__ T x[N][M];                auto& x = ::cuda_on_cpu::shared<T[N][M]>([] {});
    extern __shared__ T x[];             auto* x = ::cuda_on_cpu::dynamic_shared<T>();

`python rewrite.py IN OUT` rewrites a file, or a directory: *.cu becomes *.cu.cpp and *.cuh keeps its name. Lines keep
their numbers, and a file whose text does not change is not written.
"""

import re
import sys
from pathlib import Path

# What is no code: comments, strings, characters; and numbers, because of the quotes in 1'000.
NO_CODE = re.compile(
    r"""//(?:\\\n|[^\n])*|/\*.*?\*/|R"(?P<mark>[^(\s]*)\(.*?\)(?P=mark)"|"""
    r"""\b\d[\w.']*|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])+'""",
    re.S,
)
ALIGN = r"(?:__align__|alignas)\s*\(((?:[^()]|\([^()]*\))*)\)"
SHARED = re.compile(r"(?:\b(?:extern|static|volatile|const)\s+|" + ALIGN + r"\s*)*\b__shared__\b[^;{}]*;")
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"\n]+)"', re.M)
OPENS = {")": "(", "]": "[", ">": "<"}


def callee(code, end):
    """Where the expression begins that ends at `end`: names and brackets, joined by :: . and ->."""
    i, closed = len(code[:end].rstrip()), []
    while i:
        c, arrow = code[i - 1], code[i - 2 : i] == "->"
        if c in ")]" or (c == ">" and not arrow and closed[-1:] in ([], [">"])):  # in parentheses > is greater
            closed.append(c)
        elif closed:
            if c == OPENS[closed[-1]]:
                closed.pop()
        elif not (c.isalnum() or c in "_:." or arrow or code[i - 1 : i + 1] == "->"):
            break
        i -= 1
    return i


def split(code):
    """Splits at commas outside of all brackets."""
    parts, depth = [""], 0
    for c in code:
        depth += (c in "([{<") - (c in ")]}>")
        if c == "," and not depth:
            parts.append("")
        else:
            parts[-1] += c
    return parts


def shared(declaration):
    """A declaration of shared variables as one of references to them."""
    align = re.search(ALIGN, declaration)
    align = f", {align[1]}" if align else ""
    plain = re.sub(rf"\b(?:extern|static|__shared__)\b|{ALIGN}", "", declaration[:-1])
    first, *others = split(" ".join(plain.split()))
    of, first = re.fullmatch(r"(.*?[\s*>])(\w+\s*(?:\[.*)?)", first).groups()
    names = [re.fullmatch(r"\s*(\w+)\s*(.*)", one).groups() for one in [first, *others]]
    if "extern" in declaration:
        return f"auto* {names[0][0]} = ::cuda_on_cpu::dynamic_shared<{of.strip()}{align}>();"
    return " ".join(f"auto& {x} = ::cuda_on_cpu::shared<{of.strip()}{dims}{align}>([] {{}});" for x, dims in names)


def rewrite(text, name):
    """The text of a .cu or .cuh as C++; `name` is what compilers and sanitizers will call the file."""
    code = NO_CODE.sub(lambda m: m[0] if m[0][0].isdigit() else re.sub(r"[^\n]", " ", m[0]), text)
    edits = []
    for launch in re.finditer(r"<<<.*?(>>>)(?=\s*\()", code, re.S):
        begin, (last, end) = launch.start(), launch.span(1)
        start = callee(code, begin)
        edits += [(start, start, "CUDA_ON_CPU_KERNEL("), (begin, begin + 3, ")("), (last, end, ")")]
    for m in SHARED.finditer(code):
        edits.append((*m.span(), shared(m[0]) + "\n" * m[0].count("\n")))
    for m in re.finditer(r"\b__noinline__\b(?!\s*\))", code):  # as a macro it would break the standard library
        edits.append((*m.span(), "__attribute__((__noinline__))"))
    for m in INCLUDE.finditer(text):  # headers that are not rewritten stay where they are
        beside = Path(name).resolve().parent / m[1]
        if beside.exists() and beside.suffix != ".cuh":
            edits.append((*m.span(1), beside.resolve().as_posix()))
    for begin, end, new in sorted(edits, reverse=True):
        text = text[:begin] + new + text[end:]
    return f'#include <cuda_runtime.h>\n#line 1 "{name}"\n{text}'


def main(source, target):
    source, target = Path(source), Path(target)
    pairs = [(source, target)]
    if source.is_dir():
        files = [p for p in sorted(source.rglob("*")) if p.suffix in (".cu", ".cuh")]
        pairs = [(p, target / p.relative_to(source).parent / (p.name + ".cpp" * (p.suffix == ".cu"))) for p in files]
    for path, out in pairs:
        text = rewrite(path.read_text(), path.as_posix())
        if not out.exists() or out.read_text() != text:
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(text)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
