import sys
from pathlib import Path

from hypothesis import settings

# Helpers that stand beside the tests; no package, so that tests/model never stands in for model.
for each in ("data_pipeline", "training"):
    sys.path.append(str(Path(__file__).parent / each))

settings.register_profile("thalweg", deadline=None, derandomize=True)
settings.load_profile("thalweg")
