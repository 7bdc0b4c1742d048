"""What the collector goes through while a run trains."""

import gc
import weakref
from typing import Any

from training.garbage import Garbage


class Cyclic:
    def __init__(self) -> None:
        self.itself = self


def test_what_is_there_after_the_first_step_is_left_alone_and_what_comes_later_is_not() -> None:
    garbage, nothing, there = Garbage(), Any, Cyclic()
    before = weakref.ref(Cyclic())
    assert before() is not None
    garbage.on_step(nothing, nothing)
    assert before() is None and gc.get_freeze_count() > 1000
    assert not any(each is there for each in gc.get_objects())
    garbage.on_step(nothing, nothing)
    later, alive = weakref.ref(Cyclic()), Cyclic()
    assert any(each is alive for each in gc.get_objects())
    gc.collect()
    assert later() is None
    garbage.on_close(nothing)
    assert gc.get_freeze_count() == 0 and any(each is there for each in gc.get_objects())
