"""Where encoders compute: the device, the precision, and batches that it can hold.

A batch is bounded by what is in it, in units of one picture's work, whatever its kind: a picture, a second
of sound, or `TOKENS` tokens of text. Where the device's memory still does not suffice, the batch is halved,
down to one item, whose sample then has a reason.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from mmray.errors import MediaError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CPU", "TOKENS", "Device", "batches"]

TOKENS = 64
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Device:
    """A torch device and how it is used."""

    name: str = "cpu"
    batch: float = 64
    """Pictures, seconds of sound, or texts of `TOKENS` tokens that go through an encoder at once."""
    precision: Literal["float32", "bfloat16"] = "float32"

    def placed(self, network: Any, *, pictures: bool = False) -> Any:
        """The network in eval mode on the device; one of pictures in the layout GPUs prefer."""
        import torch

        network = network.to(self.name).eval()
        channels_last = pictures and self.name != "cpu"
        return network.to(memory_format=torch.channels_last) if channels_last else network

    def moved(self, values: "Tensor") -> "Tensor":
        """A copy on the device, which the CPU does not wait for."""
        if self.name == "cpu":
            return values
        return values.pin_memory().to(self.name, non_blocking=True)

    @contextlib.contextmanager
    def inference(self) -> Iterator[None]:
        """Without gradients, and in the precision asked for."""
        import torch

        autocast = torch.autocast(self.name.partition(":")[0], torch.bfloat16)
        with torch.inference_mode(), autocast if self.precision == "bfloat16" else contextlib.nullcontext():
            yield

    def run(
        self, compute: Callable[[list[Item]], Iterable[Result]], items: Sequence[Item]
    ) -> list[Result | MediaError]:
        """A result an item, in order, of items that are computed together if memory suffices."""
        import torch

        try:
            return list(compute(list(items)))
        except torch.OutOfMemoryError as error:
            if len(items) == 1:
                detail = str(error).partition("\n")[0]
                return [MediaError("encoder_out_of_memory", detail)]
        # Out of the handler: the exception holds on to the tensors of the batch.
        if self.name.startswith("cuda"):
            torch.cuda.empty_cache()
        middle = len(items) // 2
        return [*self.run(compute, items[:middle]), *self.run(compute, items[middle:])]


CPU = Device()


def batches(weights: Sequence[float], limit: float) -> Iterator[list[int]]:
    """Places of the items in batches, the heaviest first, each padded to its heaviest: at most `limit`.

    An item above the limit goes alone.
    """
    batch: list[int] = []
    for place in sorted(range(len(weights)), key=lambda place: -weights[place]):
        if batch and weights[batch[0]] * (len(batch) + 1) > limit:
            yield batch
            batch = []
        batch.append(place)
    if batch:
        yield batch
