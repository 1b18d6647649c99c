"""What a layer does besides its cell's equations: regularisers, limits, masks and how much it remembers."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor

from .containers import container

__all__ = ["CONTROLLERS", "GRAVES2014", "GUARDS", "KINDS", "ORDERS", "SQUASHES", "Conventions", "Masks", "Options"]

SQUASHES = ("tanh", "relu", "logistic", "identity", "g1997", "h1997")
CONTROLLERS = ("lstm", "feedforward")
ORDERS = ("read_first", "write_first", "interleaved")
GUARDS = ("sum", "floor")
ACTIVATIONS = ("linear", "tanh")
KINDS = ("zoneout", "zoneout_cell", "recurrent", "input", "weight")


@container
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


@container
class Options(NamedTuple):
    """Everything a layer takes that is neither data nor weight. The defaults change nothing.

    Attributes:
        zoneout, zoneout_cell: probability of keeping h and c at a tick; without seed or masks, the expectation.
        recurrent_dropout, input_dropout, weight_dropout: probabilities; they act only with `seed`.
        step: a new recurrent and input mask at every tick instead of one for the sequence.
        cell_clip: the new cell state is clamped to [-cell_clip, cell_clip], and has no gradient where it is at either
            end; 0: never.
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
        """What the ops take of it: seed, the masks, numbers, choices.

        The lists are never empty, though the schemas allow it: exported programs leave out arguments that equal the
        schema's default, and AOTInductor then passes None for an empty list.
        """
        if self is PLAIN:
            return _PLAIN
        numbers = [*self[:5], self.cell_clip, self.gradient_clip, self.eps]
        squash = [-1, -1] if self.squash is None else [_place("squash", name, SQUASHES) for name in self.squash]
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
_PLAIN = Options().flat()


@container
class Conventions(NamedTuple):
    """What a Neural Turing Machine is besides its tensors: heads, and all that its paper leaves open.

    Axes: N rows of the memory, M numbers of a row. The defaults are those of `rnnkernels.NTM`'s preset "graves2014".

    Attributes:
        controller: "lstm" or "feedforward" (tanh layers).
        layers: of the controller; 0: none, the heads' parameters are given.
        read_heads, write_heads: how many; all reads stand before all writes.
        shift_range: a head may shift its weighting by so many rows, either way.
        order: "read_first": all heads address the memory as the tick found it, and reads see it so; "write_first":
            reads address and see it after all writes; "interleaved": the first read and write head, then the second
            ones, ..., each pair addressing what those before it left.
        key_activation, add_activation: "tanh" or "linear", of the key and the add vector.
        similarity_guard, similarity_eps: the cosine is divided by |k| |M| + eps ("sum") or max(|k| |M|, eps) ("floor").
        sharpen_eps: added to the sum of the powers that sharpening divides by.
        reversed_shift: the shifts' distribution lists them from +range to -range, not from -range to +range.
        head_clip, output_clip: bounds of what the heads take and of the outputs; 0: none.
        activated: what the heads take is past its activations.
        recompute: as in `Options`.
    """

    controller: str = "lstm"
    layers: int = 1
    read_heads: int = 1
    write_heads: int = 1
    shift_range: int = 1
    order: str = "read_first"
    key_activation: str = "tanh"
    add_activation: str = "tanh"
    similarity_guard: str = "sum"
    similarity_eps: float = 1e-8
    sharpen_eps: float = 0.0
    reversed_shift: bool = False
    head_clip: float = 0.0
    output_clip: float = 0.0
    activated: bool = False
    recompute: int = 0

    @property
    def recurrent(self) -> bool:
        """Whether the controller reads its own h."""
        return self.controller == "lstm"

    @property
    def heads(self) -> int:
        return self.read_heads + self.write_heads

    @property
    def shifts(self) -> int:
        """Entries of a distribution over shifts."""
        return 2 * self.shift_range + 1

    def head_size(self, width: int, writes: bool) -> int:
        """Numbers a head takes: key (M), strength, gate, shifts, sharpening; one that writes also erase and add (M)."""
        return width + 3 + self.shifts + 2 * width * writes

    def parameters(self, width: int) -> int:
        """Numbers all heads take (P)."""
        return self.read_heads * self.head_size(width, False) + self.write_heads * self.head_size(width, True)

    def phases(self) -> list[tuple[range, range]]:
        """Read and write heads, each counted from 0, that address the memory at the same time: in this order."""
        R, W = range(self.read_heads), range(self.write_heads)
        if self.order == "read_first":
            return [(R, W)]
        if self.order == "write_first":
            return [(R[:0], W), (R, W[:0])]
        return [(R[i : i + 1], W[i : i + 1]) for i in range(max(len(R), len(W)))]

    def flat(self) -> tuple[list[float], list[int]]:
        """What the ops take of it: numbers and choices."""
        numbers = [self.similarity_eps, self.sharpen_eps, self.head_clip, self.output_clip]
        choices = [
            _place("controller", self.controller, CONTROLLERS),
            self.recurrent,
            self.layers,
            self.read_heads,
            self.write_heads,
            self.shift_range,
            _place("order", self.order, ORDERS),
            _place("similarity_guard", self.similarity_guard, GUARDS),
            self.reversed_shift,
            _place("key_activation", self.key_activation, ACTIVATIONS),
            _place("add_activation", self.add_activation, ACTIVATIONS),
            self.activated,
            self.recompute,
        ]
        return [float(n) for n in numbers], [int(c) for c in choices]

    @classmethod
    def of_flat(cls, numbers: Sequence[float], choices: Sequence[int]) -> "Conventions":
        """The inverse of `flat`."""
        controller, _, layers, reads, writes, shift, order, guard, turned, key, add, activated, recompute = choices
        eps, sharpen_eps, head_clip, output_clip = numbers
        return cls(
            CONTROLLERS[controller], layers, reads, writes, shift, ORDERS[order], ACTIVATIONS[key], ACTIVATIONS[add],
            GUARDS[guard], eps, sharpen_eps, bool(turned), head_clip, output_clip, bool(activated), recompute,
        )  # fmt: skip


GRAVES2014 = Conventions()


def _place(name: str, value: str, choices: Sequence[str]) -> int:
    """Where `value` stands among `choices`, which is how the ops are told."""
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {value!r}")
    return choices.index(value)
