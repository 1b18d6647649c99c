"""Calls CMake with Ninja; what is compiled, and how, stands in CMakeLists.txt."""

import importlib.metadata
import importlib.util
import os
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import setuptools
from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
PATH = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", "")])
# Compute capabilities of TORCH_CUDA_ARCH_LIST: those built by default, and what its names stand for.
CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0")
FAMILIES = {
    "Turing": "7.5+PTX",
    "Ampere": "8.0;8.6+PTX",
    "Ada": "8.9+PTX",
    "Hopper": "9.0+PTX",
    "Blackwell": "10.0;10.3;12.0;12.1+PTX",
}


def program(name: str) -> str | None:
    """Path of a program, this Python's own scripts first."""
    return shutil.which(name, path=PATH)


def missing() -> str | None:
    """What this machine lacks, as one line, or None."""
    if int(setuptools.__version__.split(".")[0]) < 77:
        return f"setuptools >= 77 expected, found {setuptools.__version__}: pip install -U setuptools"
    if importlib.util.find_spec("torch") is None:
        return "torch >= 2.10 expected, none found: pip install torch, then pip install --no-build-isolation ."
    torch = importlib.metadata.version("torch")
    if tuple(int(part) for part in torch.split(".")[:2]) < (2, 10):
        return f"torch >= 2.10 expected, found {torch}: pip install -U torch"
    compiler = os.environ.get("CXX", "").split()
    if not any(program(name) for name in (compiler[:1] or ["c++", "g++", "clang++"])):
        return f"a C++20 compiler expected, {' '.join(compiler) or 'none'} found: install g++ or set CXX to one"
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        return "Python.h expected, none found: install Python's headers (python3-dev on Debian)"
    for name in ("cmake", "ninja"):
        if program(name) is None:
            return f"{name} expected, none found: pip install {name}"
    return None


def torch_cuda() -> str | None:
    """torch.version.cuda, torch not imported."""
    return runpy.run_path(str(Path(importlib.util.find_spec("torch").origin).with_name("version.py")))["cuda"]


def find_nvcc() -> str | None:
    home = os.environ.get("CUDA_HOME")
    return (home and shutil.which("nvcc", path=os.path.join(home, "bin"))) or shutil.which("nvcc")


def ask(nvcc: str, option: str) -> str:
    return subprocess.run([nvcc, option], capture_output=True, text=True).stdout


def with_cuda(wanted: str, torch: str | None, nvcc: str | None, release: str) -> bool:
    """Whether to build csrc/cuda, given RNNKERNELS_CUDA, torch.version.cuda, and the nvcc; ValueError: why not."""
    if wanted not in ("", "0", "1"):
        raise ValueError(f"RNNKERNELS_CUDA: expected 0 or 1, got {wanted!r}")
    if wanted == "0":
        return False
    if torch is None or nvcc is None:
        if wanted == "":
            return False
        if torch is None:
            raise ValueError("RNNKERNELS_CUDA=1: a torch built with CUDA expected, found one for the CPU alone")
        raise ValueError(f"RNNKERNELS_CUDA=1: nvcc expected, none found: install CUDA {torch} or set CUDA_HOME to it")
    if release.split(".")[0] != torch.split(".")[0]:
        raise ValueError(
            f"nvcc of CUDA {torch.split('.')[0]} expected, as torch was built with {torch}, found {release or 'none'} "
            f"({nvcc}): set CUDA_HOME to another, or RNNKERNELS_CUDA=0 to build for the CPU alone"
        )
    return True


def architectures(wanted: str, known: list[str]) -> str:
    """What CMake calls a TORCH_CUDA_ARCH_LIST such as "8.0;8.6+PTX" or "Ampere", of the capabilities nvcc knows."""
    names = [part for name in re.split(r"[;,\s]+", wanted) for part in FAMILIES.get(name, name).split(";") if part]
    if not names:
        names = [capability for capability in CAPABILITIES if capability in known]
        names[-1] += "+PTX"
    targets = []
    for name in names:
        match = re.fullmatch(r"(\d+)\.(\d)([af]?)(\+PTX)?", name)
        if not match:
            families = ", ".join(FAMILIES)
            raise ValueError(f"TORCH_CUDA_ARCH_LIST: expected such as '8.0;8.6+PTX' or one of {families}, got {name!r}")
        major, minor, suffix, ptx = match.groups()
        if f"{major}.{minor}" not in known:
            raise ValueError(f"TORCH_CUDA_ARCH_LIST: this nvcc knows {', '.join(known)}, not {major}.{minor}")
        targets += [f"{major}{minor}{suffix}-{kind}" for kind in ("real", "virtual")[: 2 if ptx else 1]]
    return ";".join(dict.fromkeys(targets))


def cuda_options() -> list[str]:
    """CMake's options for CUDA, none where it is not built; ValueError: one line saying what is wrong."""
    wanted, torch, nvcc = os.environ.get("RNNKERNELS_CUDA", ""), torch_cuda(), find_nvcc()
    release = re.search(r"release (\d+\.\d+)", ask(nvcc, "--version")) if nvcc else None
    if not with_cuda(wanted, torch, nvcc, release[1] if release else ""):
        if torch and wanted == "":
            print("rnnkernels: no nvcc found, built for the CPU alone", file=sys.stderr)
        return []
    known = [f"{a[:-1]}.{a[-1]}" for a in re.findall(r"compute_(\d+)", ask(nvcc, "--list-gpu-arch"))]
    known.sort(key=float)
    targets = architectures(os.environ.get("TORCH_CUDA_ARCH_LIST", ""), known)
    return ["-DRNN_CUDA=ON", f"-DCMAKE_CUDA_COMPILER={nvcc}", f"-DCMAKE_CUDA_ARCHITECTURES={targets}"]


class CMakeBuild(build_ext):
    """One extension, built in a build directory that outlives the call, so that only what changed is compiled again."""

    cuda: list[str] = []

    def build_extension(self, ext: Extension) -> None:
        tree = ROOT / "build" / f"cmake-{sys.implementation.cache_tag}{'-cuda' * bool(self.cuda)}"
        cache = tree / "CMakeCache.txt"
        if cache.exists():
            text = cache.read_text()
            moved = f"CMAKE_HOME_DIRECTORY:INTERNAL={ROOT}\n" not in text  # or copied here
            compiler = re.search(r"^CMAKE_CUDA_COMPILER:\w+=(.*)$", text, re.M)
            if moved or (compiler and f"-DCMAKE_CUDA_COMPILER={compiler[1]}" not in self.cuda):
                shutil.rmtree(tree)
        configure = [program("cmake"), "-S", ROOT, "-B", tree, "-G", "Ninja", "--log-level=STATUS"]
        configure += [f"-DCMAKE_MAKE_PROGRAM={program('ninja')}", f"-DRNN_PYTHON={sys.executable}", *self.cuda]
        for command in (configure, [program("cmake"), "--build", tree]):
            if subprocess.run([str(word) for word in command]).returncode:
                sys.exit("rnnkernels: the build failed, see CMake's or the compiler's message above")
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        self.copy_file(tree / "rnnkernels" / target.name, target)


if __name__ == "__main__":
    # A source distribution needs none of it; every other command says what is missing before anything is downloaded.
    if not {"sdist", "egg_info", "clean"} & set(sys.argv):
        if line := missing():
            sys.exit(f"rnnkernels: {line}")
        try:
            CMakeBuild.cuda = cuda_options()
        except ValueError as error:
            sys.exit(f"rnnkernels: {error}")
    setup(ext_modules=[Extension("rnnkernels._C", sources=[])], cmdclass={"build_ext": CMakeBuild})
