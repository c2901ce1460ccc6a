"""Compiles the C files beside it when the package is built or installed; hatchling calls this.

Without a compiler or Python's headers the package is built without the native module and works all the same: the build
says so and goes on. ``MESHCACHE_NATIVE`` in the environment changes that: ``0`` leaves the module out, ``1`` makes a
failure an error, as for a wheel that is to be published. ``CFLAGS`` are added to those that Python was built with.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCES = Path(__file__).parent


def digest() -> str:
    """Return what tells one state of the sources from another."""
    found = hashlib.sha256()
    for source in sorted([*SOURCES.glob("*.c"), *SOURCES.glob("*.h")]):
        found.update(source.name.encode() + b"\0" + source.read_bytes())
    return found.hexdigest()[:16]


def compile_into(folder: Path) -> Path:
    """Compile the module and put it into a folder. Raises whatever setuptools raises if that cannot be done."""
    from setuptools import Distribution, Extension  # noqa: PLC0415  (only there while building)
    from setuptools.command.build_ext import build_ext  # noqa: PLC0415

    extension = Extension(
        "_compiled",
        [os.path.relpath(source) for source in sorted(SOURCES.glob("*.c"))],
        depends=[str(header) for header in SOURCES.glob("*.h")],
        define_macros=[("BUILT_FROM", f'"{digest()}"')],
        extra_compile_args=["-O2", "-std=c11", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-unused-parameter"],
    )
    command = build_ext(Distribution({"name": "meshcache", "ext_modules": [extension]}))
    with tempfile.TemporaryDirectory() as temporary:
        command.build_lib = command.build_temp = temporary
        command.ensure_finalized()
        command.run()
        built = Path(command.get_ext_fullpath("_compiled"))
        return Path(shutil.copy(built, folder / built.name))


class NativeBuildHook(BuildHookInterface[Any]):
    """What hatchling calls."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002  (as hatchling calls it)
        """Compile before a wheel, also an editable one, is put together."""
        wanted = os.environ.get("MESHCACHE_NATIVE", "")
        if self.target_name != "wheel":
            return
        for old in SOURCES.glob("_compiled.*.so"):
            old.unlink()
        if wanted == "0":
            return
        try:
            built = compile_into(SOURCES)
        except BaseException as error:  # setuptools and distutils end in many ways, SystemExit among them
            if wanted == "1" or not isinstance(error, Exception | SystemExit):
                raise
            self.app.display_warning(f"meshcache: without its native module, which could not be built: {error}")
            return
        build_data["pure_python"] = False
        build_data["infer_tag"] = True
        build_data["force_include"][str(built)] = f"meshcache/_native/{built.name}"
