"""An artefact for another architecture, run by an emulator: a model like any other, its memory in shared files."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np

from gptc.codegen.target import WARNINGS
from gptc.runtime.artefact import Artefact
from gptc.runtime.cpu import CpuModel
from gptc.runtime.init import initialise
from gptc.runtime.manifest import SEGMENTS
from tests.system.workshop import make

RUNNER = """
#include "model.h"

#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>

static void (*const PROGRAMS[])(const struct gptc_memory *) = {%s};

static char *map(const char *name)
{
    struct stat status;
    const int file = open(name, O_RDWR);
    fstat(file, &status);
    return mmap(NULL, status.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
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
    const struct gptc_memory m = {map("params"), map("state"), map("io"), map("arena")};
    gptc_after = after;
    for (int program; (program = getchar()) != EOF;) {
        PROGRAMS[program - '0'](&m);
        say('e');
    }
}
"""


class EmulatedModel(CpuModel):
    """The interface of `CpuModel`; to be closed."""

    def __init__(self, artefact: Artefact, parent: Path, emulator: str) -> None:
        """Build the folder's library in a copy below `parent` and start its programs under `emulator`."""
        self.artefact = artefact
        folder = make(artefact, parent)
        self._segments = {name: np.memmap(folder / name, np.uint8, "w+", 0, size) for name in SEGMENTS
                          if (size := max(1, artefact.manifest.segments[name]))}  # fmt: skip
        self._views = {tensor.name: self._view(tensor) for tensor in artefact.manifest.tensors}
        self._masters, self._stale = artefact.manifest.masters, False
        assert not self._masters, "copies of parameters are not kept here"
        self._hook: Callable[[int], None] | None = None
        self._masters, self._stale = artefact.manifest.masters, False
        built = artefact.manifest.build
        (folder / "runner.c").write_text(RUNNER % ", ".join(p.function for p in artefact.manifest.programs))
        objects = [str(path.with_suffix(".o")) for unit in built.units if (path := Path(unit))]
        command = [*shlex.split(built.compiler), *built.flags, *WARNINGS, "-static", "runner.c", *objects, *built.libs]
        subprocess.run([*command, "-o", "runner"], cwd=folder, check=True)
        self._process = subprocess.Popen(
            [emulator, "./runner"], cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
        )
        initialise(self)

    def __exit__(self, *failure: object) -> None:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.stdout.close()
        assert self._process.wait(10) == 0

    def __enter__(self) -> EmulatedModel:
        return self

    def on_call(self, hook: Callable[[int], None] | None) -> None:
        self._hook = hook

    def run(self, program: str) -> None:
        names = [p.name for p in self.artefact.manifest.programs]
        said = self._tell(str(names.index(program)))
        call = 0
        while said == b"c":
            if self._hook:
                self._hook(call)
            call += 1
            said = self._tell("g")
        assert said == b"e", "the emulated program died"

    def _tell(self, word: str) -> bytes:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(word.encode())
        return self._process.stdout.read(1)
