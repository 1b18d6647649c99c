"""What a layer does besides its cell's equations: regularisers, limits, masks and how much it remembers."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

__all__ = ["KINDS", "SQUASHES", "Masks", "Options"]

SQUASHES = ("tanh", "relu", "logistic", "identity", "g1997", "h1997")
KINDS = ("zoneout", "zoneout_cell", "recurrent", "input", "weight")


class Masks(NamedTuple):
    """Explicit masks, None where there is none. Axes: T ticks of the longest row, B rows as the caller orders them.

    zoneout, zoneout_cell: (T,B,H), 1 where the old state is kept, else 0.
    recurrent, input: (B,P) and (B,I), or (T,B,P) and (T,B,I): what h and x are multiplied with before their products.
    weight: like `w_hh`, what it is multiplied with.
    """

    zoneout: Tensor | None = None
    zoneout_cell: Tensor | None = None
    recurrent: Tensor | None = None
    input: Tensor | None = None
    weight: Tensor | None = None


class Options(NamedTuple):
    """Everything a layer takes that is neither data nor weight. The defaults change nothing.

    Attributes:
        zoneout, zoneout_cell: probability of keeping h and c at a tick; without seed or masks, the expectation.
        recurrent_dropout, input_dropout, weight_dropout: probabilities; they act only with `seed`.
        step: a new recurrent and input mask at every tick instead of one for the sequence.
        cell_clip: the new cell state is clamped to [-cell_clip, cell_clip]; 0: never.
        gradient_clip: the gradient that flows back through h is clamped so at every tick; 0: never.
        truncated: no gradient through recurrent products and peepholes.
        eps: of layer normalisation.
        squash: names in SQUASHES of the cell's two free nonlinearities; None: the cell's own.
        block_size: cells of a memory block, LSTM1997 only.
        recompute: keep the states between pieces of the sequence and compute the rest again in backward; 1 or True: in
            O(sqrt(T)) memory, more: pieces of so many ticks.
        all_states: return every state of every tick as well.
        stream: layer * directions + direction, so that every layer draws other numbers from one seed.
        seed: int64 tensor of one number, or None.
        masks: explicit masks instead of drawn ones.
    """

    zoneout: float = 0.0
    zoneout_cell: float = 0.0
    recurrent_dropout: float = 0.0
    input_dropout: float = 0.0
    weight_dropout: float = 0.0
    step: bool = False
    cell_clip: float = 0.0
    gradient_clip: float = 0.0
    truncated: bool = False
    eps: float = 1e-5
    squash: Sequence[str] | None = None
    block_size: int = 1
    recompute: int = 0
    all_states: bool = False
    stream: int = 0
    seed: Tensor | None = None
    masks: Masks = Masks()

    @property
    def is_true_gradient(self) -> bool:
        """Whether backward computes the derivative of forward."""
        return not (self.truncated or self.gradient_clip)

    def flat(self) -> tuple[Any, ...]:
        """What the ops take of it: seed, the masks, numbers, choices; empty lists where everything is the default."""
        if self is PLAIN:
            return _PLAIN
        numbers = [*self[:5], self.cell_clip, self.gradient_clip, self.eps]
        squash = [-1, -1] if self.squash is None else [SQUASHES.index(name) for name in self.squash]
        choices = [self.stream, self.step, self.truncated, *squash, self.block_size, self.recompute]
        return self.seed, *self.masks, [float(n) for n in numbers], [int(c) for c in choices]

    @classmethod
    def of_flat(cls, seed: Tensor | None, *rest: Any) -> "Options":
        """The inverse of `flat`, but for `all_states`."""
        *masks, numbers, choices = rest
        if not numbers:
            return cls(seed=seed, masks=Masks(*masks))
        stream, step, truncated, g, h, block_size, recompute = choices
        return cls(
            *numbers[:5],
            step=bool(step),
            cell_clip=numbers[5],
            gradient_clip=numbers[6],
            truncated=bool(truncated),
            eps=numbers[7],
            squash=None if g < 0 else (SQUASHES[g], SQUASHES[h]),
            block_size=block_size,
            recompute=recompute,
            stream=stream,
            seed=seed,
            masks=Masks(*masks),
        )


PLAIN = Options()
_PLAIN = (None, *Masks(), [], [])
