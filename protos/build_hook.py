"""Generates ``extproc/_pb`` from the definitions beside this file whenever a wheel is built.

Hatchling runs it for ``pip install .``, for editable installs and for wheels made of an sdist.
The generated modules are in no repository and in no sdist: protobuf refuses generated code that
is newer than the installed runtime, so it is made by the pinned compiler and nothing else.
"""

import shutil
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = "extproc/_pb"


class ProtobufHook(BuildHookInterface[Any]):
    """Compiles every definition and adds the outcome, which git ignores, to the wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name == "wheel":  # editable installs are wheels too
            generate(Path(self.root))
            build_data["artifacts"].append(f"/{PACKAGE}/*")


def generate(root: Path) -> None:
    """Writes the package anew. Raises ``RuntimeError`` when a definition does not compile."""
    from grpc_tools import protoc  # a build requirement, which hatchling may load after this module

    package = root / PACKAGE
    shutil.rmtree(package, ignore_errors=True)
    package.mkdir()
    (package / "__init__.py").write_text('"""Generated from protos/: do not edit."""\n')
    definitions = [f"{PACKAGE}/{path.name}" for path in sorted((root / "protos").glob("*.proto"))]
    with as_file(files("grpc_tools") / "_proto") as well_known:
        # The definitions are seen under the package's path, because that is what the
        # generated modules are imported by and registered under.
        includes = [f"-I{PACKAGE}={root / 'protos'}", f"-I{well_known}"]
        status = protoc.main(["protoc", *includes, f"--python_out={root}", f"--pyi_out={root}", *definitions])
    if status != 0:
        raise RuntimeError("protoc refused the definitions in protos/; its messages stand above")
