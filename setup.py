"""Builds the native module with CMake. All other settings are in pyproject.toml."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()


def require_compiler() -> None:
    candidates = (
        [os.environ["CXX"].split()[0]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    )
    if not any(shutil.which(name) for name in candidates):
        sys.exit(
            f"error: building proact needs a C++17 compiler, but none of {', '.join(candidates)} "
            "was found: install one (Debian and Ubuntu: apt-get install g++; macOS: "
            "xcode-select --install) or set the environment variable CXX to it"
        )


class CMakeBuild(build_ext):
    def build_extension(self, ext: Extension) -> None:
        require_compiler()
        import pybind11

        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        build = Path(self.build_temp).resolve() / "cmake"
        configure = [
            "cmake", "-S", str(ROOT), "-B", str(build), "-G", "Ninja",
            "-DCMAKE_BUILD_TYPE=Release",
            f"-DCMAKE_LIBRARY_OUTPUT_DIRECTORY={target.parent}",
            f"-DPython_EXECUTABLE={sys.executable}",
            # Isolated builds each install their own ninja, so the path in CMake's cache is stale.
            f"-DCMAKE_MAKE_PROGRAM={shutil.which('ninja')}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
            f"-DPROACT_CUDA={os.environ.get('PROACT_CUDA', 'auto')}",
        ]  # fmt: skip
        subprocess.run(configure, check=True)
        subprocess.run(["cmake", "--build", str(build)], check=True)


setup(ext_modules=[Extension("proact._proact", sources=[])], cmdclass={"build_ext": CMakeBuild})
