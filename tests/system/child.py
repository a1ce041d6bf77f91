"""An artefact whose programs run in a process of their own: for another architecture, or under the sanitizers."""

from __future__ import annotations

import mmap
import shlex
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import numpy as np

from gptc.contracts import SEGMENTS
from gptc.runtime.artefact import Artefact
from gptc.runtime.cpu import CpuModel
from gptc.runtime.init import initialise
from gptc.runtime.library import Views
from tests.conftest import WARNINGS
from tests.system.workshop import make

RUNNER = """
#include "model.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>

static void (*const PROGRAMS[])(const struct gptc_memory *) = {%s};

// A segment ends where its file does, and nothing follows: who reads further dies.
static char *map(const char *name, int64_t bytes)
{
    struct stat status;
    const int file = open(name, O_RDWR);
    fstat(file, &status);
    const int64_t page = 1 << 16;
    char *room = mmap(NULL, status.st_size + page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    mmap(room, status.st_size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0);
    return room + status.st_size - bytes;
}

// Says "c" after each call, "e" at the end of a program, and goes on when it is told to.
static void say(char what)
{
    putchar(what);
    fflush(stdout);
}

static void after(int call)
{
    (void)call;
    say('c');
    getchar();
}

int main(void)
{
    const struct gptc_memory m = {
        map("params", GPTC_PARAMS_BYTES), map("state", GPTC_STATE_BYTES),
        map("io", GPTC_IO_BYTES), map("arena", GPTC_ARENA_BYTES),
    };
    gptc_after = after;
    for (int program; (program = getchar()) != EOF;) {
        PROGRAMS[program - '0'](&m);
        say('e');
    }
}
"""


class ChildModel(CpuModel):
    """The interface of `CpuModel`; to be closed."""

    def __init__(self, artefact: Artefact, parent: Path, emulator: Sequence[str] = ()) -> None:
        """Build the folder's library in a copy below `parent` and start its programs, under `emulator` if need be."""
        self.artefact = artefact
        folder = make(artefact, parent)
        self._segments = {name: _share(folder / name, artefact.manifest.segments[name]) for name in SEGMENTS}
        self._views = Views(artefact, self._view)
        self._hook: Callable[[int], None] | None = None
        built = artefact.manifest.build
        (folder / "runner.c").write_text(RUNNER % ", ".join(p.function for p in artefact.manifest.programs))
        objects = [str(path.with_suffix(".o")) for unit in built.units if (path := Path(unit))]
        command = [*shlex.split(built.compiler), *built.flags, *WARNINGS, "runner.c", *objects, *built.libs]
        static = ["-static"] if emulator else []
        subprocess.run([*command, *static, "-o", "runner"], cwd=folder, check=True)
        self._errors = (folder / "errors").open("w+")
        self._process = subprocess.Popen(
            [*emulator, "./runner"], cwd=folder, bufsize=0,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors,
        )  # fmt: skip
        initialise(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *failure: object) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.stdout.close()
        code = self._process.wait(10)
        assert (code, self._complaint()) == (0, "")
        self._errors.close()

    def on_call(self, hook: Callable[[int], None] | None) -> None:
        self._hook = hook

    def run(self, program: str) -> None:
        if self._views.stale:
            self._views.stale = False
            self._run("refresh", None)
        self._run(program, self._hook)

    def _run(self, program: str, hook: Callable[[int], None] | None) -> None:
        names = [p.name for p in self.artefact.manifest.programs]
        said = self._tell(str(names.index(program)))
        call = 0
        while said == b"c":
            if hook:
                hook(call)
            call += 1
            said = self._tell("g")
        assert said == b"e", self._complaint()

    def _tell(self, word: str) -> bytes:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(word.encode())
        return self._process.stdout.read(1)

    def _complaint(self) -> str:
        """What the process has said of its errors."""
        self._errors.seek(0)
        return self._errors.read()


def _share(path: Path, size: int) -> np.ndarray:
    """The last `size` bytes of a new file of whole pages."""
    whole = np.memmap(path, np.uint8, "w+", shape=size + -size % mmap.PAGESIZE or mmap.PAGESIZE)
    return whole[whole.size - size :]
