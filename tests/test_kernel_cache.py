"""An edited source of the simulator never runs from compiled code of before the edit."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import offload_rllib
from offload_rllib.simulator import jit

PROGRAM = """
import numpy as np
from offload_rllib.simulator.jit import kernel
from offload_rllib.simulator import tasks
print(tasks.PROBE(1.5))
"""


def run(folder: Path) -> str:
    """Call a kernel of tasks.py, which calls one of heap.py, in a new process with the package of `folder`."""
    environment = os.environ | {"PYTHONPATH": str(folder), "OFFLOAD_RLLIB_CACHE": str(folder / "cache")}
    result = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    return result.stdout.strip()


def test_an_edited_callee_in_another_file_is_compiled_anew(tmp_path: Path) -> None:
    package = tmp_path / "offload_rllib"
    shutil.copytree(Path(offload_rllib.__file__).parent, package)
    with (package / "simulator" / "jit.py").open("a") as file:
        file.write("\n\n@kernel\ndef _callee(x):\n    return x + 1.0\n")
    with (package / "simulator" / "tasks.py").open("a") as file:
        file.write(
            "\n\nfrom offload_rllib.simulator.jit import _callee\n\n\n"
            "@kernel\ndef PROBE(x):\n    return 2.0 * _callee(x)\n"
        )
    assert run(tmp_path) == "5.0"
    assert run(tmp_path) == "5.0"
    compiled = list((tmp_path / "cache").rglob("*PROBE*.nbi"))
    assert compiled, "the kernel was not cached, so this test would show nothing"
    caller = (package / "simulator" / "tasks.py").stat()
    edited = package / "simulator" / "jit.py"
    edited.write_text(edited.read_text().replace("return x + 1.0", "return x + 2.0"))
    assert run(tmp_path) == "7.0"
    assert (package / "simulator" / "tasks.py").stat().st_mtime_ns == caller.st_mtime_ns


def test_a_cache_folder_that_cannot_be_written_is_named_and_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    environment = os.environ | {"OFFLOAD_RLLIB_CACHE": str(tmp_path / "file")}
    program = "from offload_rllib.simulator.streams import mix; import numpy as np; print(mix(np.uint64(1)))"
    program += "; from offload_rllib.simulator import jit; print('PRIVATE', jit.KERNEL_CACHE)"
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert "Set OFFLOAD_RLLIB_CACHE to a folder that can be written" in result.stderr
    private = Path(re.findall(r"PRIVATE (.*)", result.stdout)[0])
    assert not private.exists(), "the private folder is removed at the end"


def test_kernels_outside_the_hashed_folders_call_none_of_other_files_there() -> None:
    """Numba notices an edit of a kernel's own file, and the hash one of the folders it covers; nothing else."""
    package = jit.PACKAGE
    holders = {path for path in package.rglob("*.py") if "@kernel" in path.read_text(encoding="utf-8")}
    covered = {path for path in holders if path.parent.name in jit.KERNEL_FOLDERS}
    outside = holders - covered
    assert outside
    for path in outside:
        text = path.read_text(encoding="utf-8")
        for other in outside - {path}:
            module = ".".join(other.relative_to(package.parent).with_suffix("").parts)
            assert module not in text, f"{path} uses {module}, whose kernels the cache does not watch"
