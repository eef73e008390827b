"""Puts the C++ sources into the installed package: they lie beside the packages here, and are built where they are used."""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithSources(build_py):
    """Copies ``csrc`` to ``mixfast_kernels/csrc``. An editable installation finds it where it is."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib) / "mixfast_kernels" / "csrc"
            shutil.rmtree(target, ignore_errors=True)
            shutil.copytree("csrc", target)


setup(cmdclass={"build_py": BuildWithSources})
