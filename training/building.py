"""Giving the parameters of a network that was built without memory their first values, one at a time.

At ZeRO stage 3 each is cut at once and this rank keeps its part. So no process ever holds more of the network than its
share and a parameter. docs/decisions/0012-large-networks.md has what DeepSpeed does about it.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from training.cuts import WHOLE
from training.tensor_parallel import cut_of

Values = Iterable[tuple[str, Tensor]]
"""Name and whole fp32 value of each parameter."""


def zeros(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Values for parameters that a checkpoint is going to overwrite."""
    for name, parameter in network.named_parameters():
        yield name, torch.zeros(cut_of(parameter).whole_shape(parameter.shape), device="cpu")


def fill(network: nn.Module, values: Values, place: Callable[[nn.Parameter, Tensor], None]) -> None:
    """Gives each parameter its value, or its piece of that, by `place`.

    Every rank must call it with all values in the same order. Parameters stay the objects that they are, so that an
    optimizer may have them already.
    """
    parameters = dict(network.named_parameters())
    for name, value in values:
        parameter = parameters.pop(name)
        cut = cut_of(parameter)
        assert value.shape == cut.whole_shape(parameter.shape), f"{name} is of another network"
        if cut != WHOLE:
            value = cut.of(value).clone(memory_format=torch.contiguous_format)
        place(parameter, value)
        del value  # or it would be there while the next one is made
    assert not parameters, f"there is no value for {', '.join(parameters)}"


def keep(parameter: nn.Parameter, value: Tensor) -> None:
    """Has the parameter, of any device, hold `value` itself."""
    held = nn.Parameter(value)
    held.__dict__.update(parameter.__dict__)  # which piece it is
    torch.utils.swap_tensors(parameter, held)


def sharding(config: dict[str, Any], replicas: Any) -> Callable[[nn.Parameter, Tensor], None]:
    """A `place` that keeps this rank's part where DeepSpeed's dictionary `config`, of stage 3, says.

    Every rank must call it, with the processes' group there; it shards over `replicas`, or over all where that is None.
    """
    from deepspeed import zero
    from deepspeed.utils import groups

    # Given a module it also puts its own linear layer in the place of torch's, as it does for a network that is whole.
    group = replicas or groups._get_sequence_data_parallel_group()
    init = zero.Init(nn.Module(), data_parallel_group=group, config_dict_or_path=config)

    def shard(parameter: nn.Parameter, value: Tensor) -> None:
        keep(parameter, value.to(init.local_device, init.dtype))
        init._convert_to_deepspeed_param(parameter)
        parameter.partition()  # type: ignore[attr-defined]

    return shard
