"""Calls CMake with Ninja; what is compiled, and how, stands in CMakeLists.txt."""

import importlib.metadata
import importlib.util
import os
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


class CMakeBuild(build_ext):
    """One extension, built in a build directory that outlives the call, so that only what changed is compiled again."""

    def build_extension(self, ext: Extension) -> None:
        tree = ROOT / "build" / f"cmake-{sys.implementation.cache_tag}"
        cache = tree / "CMakeCache.txt"
        if cache.exists() and f"CMAKE_HOME_DIRECTORY:INTERNAL={ROOT}\n" not in cache.read_text():
            shutil.rmtree(tree)  # the sources were moved or copied here with it
        configure = [program("cmake"), "-S", ROOT, "-B", tree, "-G", "Ninja", "--log-level=STATUS"]
        configure += [f"-DCMAKE_MAKE_PROGRAM={program('ninja')}", f"-DRNN_PYTHON={sys.executable}"]
        for command in (configure, [program("cmake"), "--build", tree]):
            if subprocess.run([str(word) for word in command]).returncode:
                sys.exit("rnnkernels: the build failed, see CMake's or the compiler's message above")
        target = Path(self.get_ext_fullpath(ext.name))
        target.parent.mkdir(parents=True, exist_ok=True)
        self.copy_file(tree / "rnnkernels" / target.name, target)


# A source distribution needs none of it; every other command says what is missing before anything is downloaded.
if not {"sdist", "egg_info", "clean"} & set(sys.argv) and (line := missing()):
    sys.exit(f"rnnkernels: {line}")

setup(ext_modules=[Extension("rnnkernels._C", sources=[])], cmdclass={"build_ext": CMakeBuild})
