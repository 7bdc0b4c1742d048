import os
import signal
import sys
from pathlib import Path

# Before torch is imported: threads cost the small tensors here more than they bring.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

# Helpers that stand beside the tests; no package, so that tests/model never stands in for model.
for each in ("cluster", "data_pipeline", "model", "training"):
    sys.path.append(str(Path(__file__).parent / each))

# A shell that starts the tests in the background has them ignore it, and all that they start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("thalweg", deadline=None, derandomize=True)
settings.load_profile("thalweg")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real corpora for developers, which the repository does not hold."""
    repository = Path(__file__).parents[1]
    folder = Path(os.environ.get("THALWEG_DATA", repository.parent / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip("needs real corpora: put them into ../shared/data, or name their folder in THALWEG_DATA")
    return folder
