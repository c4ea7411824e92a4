"""An edited source of the simulator never runs from compiled code of before the edit."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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


SLOWLY_COMPILED = """
import sys
import time
from offload_rllib.simulator.compiling import kernel_cache
from offload_rllib.simulator.jit import kernel

kernel_cache.LONGEST_WAIT_S = 30

@kernel
def probe(x):
    return x + 1.0

compiler = probe.entry._compiler
compile_at_once = compiler.compile
compiler.compile = lambda *given: (time.sleep(2), compile_at_once(*given))[1]
print("ready", flush=True)
sys.stdin.readline()
try:
    probe("text" if "wrongly" in sys.argv else 1.5)
except Exception as error:
    print(type(error).__name__)
print(sum(probe.entry.stats.cache_misses.values()), probe.entry._cache._lock.is_locked)
"""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [([], ["0 False", "1 False"]), (["wrongly"], ["TypingError 1 False", "TypingError 1 False"])],
)
def test_processes_that_need_a_kernel_together_compile_it_once(
    arguments: list[str], said: list[str], tmp_path: Path
) -> None:
    program = tmp_path / "program.py"
    program.write_text(SLOWLY_COMPILED)
    environment = os.environ | {"OFFLOAD_RLLIB_CACHE": str(tmp_path / "cache")}
    started = [
        subprocess.Popen(
            [sys.executable, str(program), *arguments],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    pipes = [(process.stdin, process.stdout) for process in started]
    assert [out.readline() for _, out in pipes if out] == ["ready\n"] * 2
    for into, _ in pipes:
        assert into is not None
        into.write("go\n")
        into.flush()
    assert sorted(" ".join(process.communicate(timeout=120)[0].split()) for process in started) == said


def test_kernels_outside_the_hashed_folders_call_none_of_other_files_there() -> None:
    """Numba notices an edit of a kernel's own file, and the hash one of the folders it covers; nothing else."""
    package = jit.PACKAGE
    holders = {path for path in package.rglob("*.py") if "@kernel" in path.read_text(encoding="utf-8")}
    covered = {path for path in holders if path.relative_to(package).parts[0] in jit.KERNEL_FOLDERS}
    outside = holders - covered
    assert outside
    for path in outside:
        text = path.read_text(encoding="utf-8")
        for other in outside - {path}:
            module = ".".join(other.relative_to(package.parent).with_suffix("").parts)
            assert module not in text, f"{path} uses {module}, whose kernels the cache does not watch"


MIX = "from offload_rllib.simulator.streams import mix; import numpy as np; print(mix(np.uint64(1)))"


def mixed(program: str = MIX, **environment: str) -> subprocess.CompletedProcess[str]:
    """Call a kernel in a new process."""
    return subprocess.run(
        [sys.executable, "-c", program], env=os.environ | environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("kind", ["nbi", "nbc"])
def test_a_damaged_file_of_the_cache_is_compiled_again(tmp_path: Path, kind: str) -> None:
    expected = mixed(OFFLOAD_RLLIB_CACHE=str(tmp_path)).stdout
    (path,) = tmp_path.rglob(f"streams.mix*.{kind}")
    whole = path.read_bytes()
    middle = len(whole) // 2
    for damaged in (b"", whole[:middle], whole[:middle] + bytes([whole[middle] ^ 255]) + whole[middle + 1 :]):
        path.write_bytes(damaged)
        done = mixed(OFFLOAD_RLLIB_CACHE=str(tmp_path))
        assert (done.returncode, done.stdout) == (0, expected), done.stderr
        assert path.stat().st_size == len(whole), "it was written again"


def test_a_cache_that_takes_no_files_any_more_costs_a_warning(tmp_path: Path) -> None:
    full = "import errno; from numba.core.caching import IndexDataCacheFile\n"
    full += "def refuse(*_): raise OSError(errno.ENOSPC, 'No space left on device')\n"
    full += "IndexDataCacheFile._open_for_write = refuse\n"
    done = mixed(full + MIX, OFFLOAD_RLLIB_CACHE=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout == mixed().stdout
    assert done.stderr.count("compiled kernels cannot be kept (No space left on device)") == 1


def test_a_user_without_home_and_name_compiles_in_a_folder_of_the_process(tmp_path: Path) -> None:
    nobody = "import os, pwd\n"
    nobody += "def unknown(uid): raise KeyError(f'uid not found: {uid}')\n"
    nobody += "pwd.getpwuid = unknown\nfor name in ('HOME', 'OFFLOAD_RLLIB_CACHE', 'XDG_CACHE_HOME'):\n"
    nobody += "    os.environ.pop(name, None)\n"
    done = mixed(nobody + MIX, TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout == mixed().stdout
    assert "there is no home folder" in done.stderr
    assert not list(tmp_path.iterdir()), "the private folder is removed at the end"


def test_a_command_of_a_user_without_home_and_name_finds_both(tmp_path: Path) -> None:
    nobody = "import os, pwd, sys\n"
    nobody += "def unknown(uid): raise KeyError(f'uid not found: {uid}')\n"
    nobody += "pwd.getpwuid = unknown\nfor name in ('HOME', 'USER', 'LOGNAME', 'LNAME', 'USERNAME'):\n"
    nobody += "    os.environ.pop(name, None)\n"
    nobody += (
        "from offload_rllib.cli import main\nsys.argv = ['offload-rllib', 'train', 'ether_12', 'nothing']\nmain()\n"
    )
    done = mixed(nobody, TMPDIR=str(tmp_path))
    assert done.returncode == 2, done.stderr  # it got as far as that, past the import of Ray
    assert "'nothing' is not a preset of policies/" in done.stderr
    assert not list(tmp_path.iterdir()), "the home folder is removed at the end"


def test_without_any_folder_kernels_stay_in_memory(tmp_path: Path) -> None:
    nowhere = (
        "import tempfile\ndef refuse(**_): raise OSError(30, 'Read-only file system')\ntempfile.mkdtemp = refuse\n"
    )
    (tmp_path / "file").touch()
    done = mixed(nowhere + MIX, OFFLOAD_RLLIB_CACHE=str(tmp_path / "file"))
    assert done.returncode == 0, done.stderr
    assert done.stdout == mixed().stdout


def test_kernels_are_compiled_though_numba_is_told_not_to() -> None:
    done = mixed(NUMBA_DISABLE_JIT="1")
    assert done.returncode == 0, done.stderr
    assert done.stdout == mixed().stdout
