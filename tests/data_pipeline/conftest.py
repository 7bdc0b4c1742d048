import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real corpora for developers, which the repository does not hold."""
    repository = Path(__file__).parents[2]
    folder = Path(os.environ.get("THALWEG_DATA", repository.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("needs real corpora: put them into ../shared/data, or name their folder in THALWEG_DATA")
    return folder
