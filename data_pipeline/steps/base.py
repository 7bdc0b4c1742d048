"""What a step is: a function from a document to the reason why it is dropped, which may change the document.

It depends on that document alone, so that the result is the same in whatever order and by however many workers.
"""

from collections import Counter
from collections.abc import Callable
from typing import TypeAlias

from datatrove.data import Document

Step: TypeAlias = Callable[[Document, Counter[str]], str | None]
"""Returns None for a document that stays. The counter is of what happens to documents: `<what>` by number."""
