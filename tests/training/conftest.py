"""Runs that share nothing, to compare others with; each file of tests writes its own beside them."""

from pathlib import Path

import pytest

from layouts import train_alone, watch_unshared


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    train_alone(folder)
    return folder


@pytest.fixture(scope="module")
def unshared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unshared")
    watch_unshared(folder)
    return folder
