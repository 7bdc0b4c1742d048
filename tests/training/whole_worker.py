"""One rank at stage 3 that has the whole network put together; rank 0 prints what it writes, by the weights kept,
and how often each rank showed a sign of life.
"""

import json
from functools import partial

from model.generate import generate
from model.gpt import GPT
from parity_worker import ALTERNATING, built
from training.whole_network import KEPT, with_whole_network


def main() -> None:
    from training.collectives import gather_objects
    from training.engine import leave

    engine = built(3, "bf16", 1, "alternating")
    written: dict[str, list[list[int]]] = {}
    held: dict[str, int] = {}
    moves: dict[str, list[int]] = {}
    for kept in (0, 2000, KEPT):

        def use(network: GPT, kept: int = kept) -> None:
            written[str(kept)] = generate(network, [[1, 2, 3], [5]], max_tokens=20, end_of_text=63, temperature=0.0)
            held[str(kept)] = sum(each.numel() for each in network.parameters() if not each.is_meta)

        signs: list[None] = []
        with_whole_network(engine, ALTERNATING, use, partial(signs.append, None), kept)
        moves[str(kept)] = gather_objects(len(signs))
    if engine.rank == 0:
        print(json.dumps({"written": written, "held": held, "moves": moves}))
    else:
        assert not written
    failed = False
    try:
        with_whole_network(engine, ALTERNATING, lambda network: network.step(None, None), lambda: None)
    except AttributeError:
        failed = True
    assert failed == (engine.rank == 0)
    engine.close()  # every rank comes here: the others were let go
    leave(0)


if __name__ == "__main__":
    main()
