from __future__ import annotations

from pathlib import Path

import pytest

from gptc.runtime.artefact import Artefact, open_artefact
from gptc.runtime.build import build
from gptc.runtime.cache import Cache
from gptc.runtime.cpu import CpuModel
from gptc.runtime.data import Data, open_data
from gptc.runtime.init import initialise
from tests.runtime.toy import write_toy


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """One cache for the tests that are not about the cache, so that each toy is compiled once."""
    return Cache(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Artefact:
    return open_artefact(write_toy(tmp_path_factory.mktemp("toy")))


@pytest.fixture
def model(toy: Artefact, shared_cache: Cache) -> CpuModel:
    """A freshly initialised training model."""
    return loaded(toy.folder, shared_cache)


def loaded(folder: Path, cache: Cache) -> CpuModel:
    artefact = open_artefact(folder)
    model = CpuModel(artefact, build(artefact, cache=cache).library)
    initialise(model)
    return model


@pytest.fixture
def data(tmp_path: Path) -> Data:
    path = tmp_path / "text"
    path.write_bytes(bytes(range(50)) * 40)
    return open_data(path, "bytes", 2, 12, 50)
