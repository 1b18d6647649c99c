"""`Recurrent`: a stack of layers over whole sequences, whatever the cell and however the sequences lie."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from .. import functional
from ..functional import autocasts
from ..options import Masks, Options
from .base import Arguments, Base, States
from .checks import check, of_type, packed_resets, probability, reset_flags, row_lengths, with_shape
from .fx import Proxy, as_leaf
from .torch_names import TorchNames

__all__ = ["Recurrent"]

# cuDNN warns at every call whose weights are not one buffer; here they never are, on purpose.
warnings.filterwarnings("ignore", "RNN module weights are not part of single contiguous chunk", module=__name__)


def _stack(tensors: Sequence[Tensor]) -> Tensor:
    """As `torch.stack`, without a copy of one alone, which nobody else holds."""
    return with_shape(tensors[0], (1, *tensors[0].shape)) if len(tensors) == 1 else torch.stack(tensors)


class Recurrent(TorchNames, Base):
    """What the layers share: torch.nn's parameter names and initialisation, the checks, the walk through the stack.

    It is no `torch.nn.RNNBase`: torch.compile refuses those, and their copy of the weights has to be kept in step.

    Every layer takes, by keyword, beside what its own class says:

    Args:
        zoneout: probability in [0, 1] that a unit of h keeps its value at a tick, while training; in evaluation h is
            the expectation, zoneout * old + (1 - zoneout) * new. Krueger et al., "Zoneout", 2016.
        zoneout_cell: the same for the cell state, where there is one; h is computed from the new c before its zoneout.
        recurrent_dropout: probability of dropping a unit of h where it enters the recurrent products, while training;
            the h that is carried and returned is untouched. Gal and Ghahramani, "A theoretically grounded application
            of dropout in recurrent neural networks", 2016.
        recurrent_dropout_mode: "sequence": one mask for all ticks, or "step": another one at every tick; of the input
            too.
        input_dropout: likewise of every layer's input.
        weight_dropout: probability of dropping an entry of `weight_hh`, one mask for all ticks and rows; the Parameter
            is not touched. Merity et al., "Regularizing and optimizing LSTM language models", 2017.
        cell_clip: the new cell state is clamped to [-cell_clip, cell_clip], and has no gradient where it is at either
            end; None: never.
        gradient_clip: the gradient that flows back through h at a tick is clamped likewise; None: never. No true
            gradient any more: double backward raises.
        forget_bias: what the forget gate's biases sum to after initialisation, in cells that have one; None: drawn like
            the others.
        recompute: keeps O(sqrt(T)) time steps' states for backward and computes the rest again, instead of keeping what
            every time step computed.
        learn_reset_state: `resets` replace the state by Parameters `reset_h_lk` (P) and, with a cell state,
            `reset_c_lk` (H), which start at zero, instead of by zeros. Cannot be changed later.
    """

    checks = {"dropout": probability, "num_layers": of_type(int), "batch_first": of_type(bool)}
    fixed = frozenset({"num_layers", "bidirectional"})

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        zoneout: float = 0.0,
        zoneout_cell: float = 0.0,
        recurrent_dropout: float = 0.0,
        recurrent_dropout_mode: str = "sequence",
        input_dropout: float = 0.0,
        weight_dropout: float = 0.0,
        cell_clip: float | None = None,
        gradient_clip: float | None = None,
        forget_bias: float | None = None,
        recompute: bool = False,
        learn_reset_state: bool = False,
    ) -> None:
        settings = locals()
        super().__init__()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bias = bias
        self.batch_first = batch_first
        self.bidirectional = bidirectional
        self.proj_size = proj_size
        self._check_arguments(dropout)
        self.dropout = float(dropout)
        self._set(settings)
        self._name_weights()

        for k, suffix in enumerate(self._suffixes()):
            inputs = input_size if k < self._directions else self._width("h") * self._directions
            for name in self._parameter_names():
                shape = self._shape(name, inputs)
                if shape is not None:
                    self.register_parameter(name + suffix, nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))
        self.reset_parameters()

    @property
    def all_weights(self) -> list[list[nn.Parameter]]:
        """The weights of every layer and direction, in torch.nn's order."""
        return [[getattr(self, name) for name in names] for names in self._all_weights]

    def flatten_parameters(self) -> None:
        """Does nothing: weights may live anywhere and change at any time."""

    def extra_repr(self) -> str:
        defaults = {"proj_size": 0, "num_layers": 1, "bias": self.default_bias, "batch_first": False, "dropout": 0}
        defaults |= {"bidirectional": False}
        changed = [(k, getattr(self, k)) for k, default in defaults.items() if getattr(self, k) != default]
        changed = [f"{name}={value}" for name, value in (*changed, *self._changed())]
        return ", ".join([str(self.input_size), str(self.hidden_size), *changed])

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: States | None = None,
        *,
        lengths: Tensor | Sequence[int] | None = None,
        resets: Tensor | PackedSequence | None = None,
        cu_seqlens: Tensor | Sequence[int] | None = None,
        return_all: bool = False,
        seed: Tensor | int | None = None,
        masks: Masks | Sequence[Masks] | None = None,
    ) -> tuple[Any, ...]:
        """Runs the stack. Axes: T ticks, B rows, I inputs, H hidden units, L layers, D directions, P = proj_size or H.

        Args:
            input: (T,B,I), with `batch_first` (B,T,I), one sequence (T,I), or a `PackedSequence`, sorted or not; with
                `cu_seqlens` (N,I), sequences one after another.
            hx: initial state (L*D,B,H), of one sequence (L*D,H); for LSTM the pair h (L*D,B,P) and c (L*D,B,H).
                Zero by default. Rows stand in the order of the caller's sequences.
            lengths: integers (B,), in any order: what follows a row's own length is not read, output there is zero, and
                the state is the one at its last tick, `hx` where the length is 0. The reverse direction starts at each
                row's own end.
            resets: bool (T,B), with `batch_first` (B,T), of one sequence (T,), with `cu_seqlens` (N,), one more axis of
                size 1 accepted; for a `PackedSequence` another one, of flags (N,), packed with the same lengths. Where
                it is set the state of that row is replaced before tick t, in every layer, by zeros or the Parameters of
                `learn_reset_state`; `resets[0]` discards `hx`. The reverse direction is reset when it crosses from t to
                t-1.
            cu_seqlens: integers (B+1,), 0 first: where each sequence begins in `input`, and where the last one ends.
            return_all: returns every state of every layer, direction and tick as well.
            seed: int64 of one number, from which every mask of this call follows. By default one is drawn in training
                where an option asks for it, so that `torch.manual_seed` repeats it. Given one, masks are drawn in
                evaluation too. They go by row and tick however the input lies; the rows of a `PackedSequence` count in
                its own order, the longest first.
            masks: explicit masks instead of drawn ones: one `Masks` for each layer and direction, in the order of
                `hx`. Their rows stand in the order of the caller's sequences, their ticks are those of the longest; one
                sequence is one row.

        Returns:
            `(output, state)`: the last layer's output (T,B,D*P), laid out as the input, and the state of every layer
            and direction after each row's own last tick, shaped as `hx`. With `return_all` also a dict of every state
            by name ("h", and "c" where there is a cell state), each (L,D,T,B,H), with `batch_first` (L,D,B,T,H), of one
            sequence (L,D,T,H), of packed frames and with `cu_seqlens` (L,D,N,H), in the order of the input's ticks.

        Raises:
            ValueError: input of wrong rank, or of another dtype than the weights outside autocast; wrong type or shape
                of the keyword arguments, or two that exclude each other.
            RuntimeError: wrong number of features, no tick, wrong shape, dtype or device of `hx`, wrong batch sizes.
        """
        if isinstance(input, Proxy):
            return as_leaf(self, locals())
        weights, units = self._weights()
        states = () if hx is None else self._open(hx)
        if masks is not None:
            masks = self._spread(masks)
        if isinstance(input, PackedSequence):
            return self._forward_packed(
                input, weights, units, states, resets, return_all, seed, masks, lengths is None and cu_seqlens is None
            )

        batched = True
        if cu_seqlens is not None:
            x, keywords = self._one_after_another(input, lengths, cu_seqlens, resets)
            rows = keywords["lengths"].size(0)
        else:
            batched = input.dim() == 3
            if batched:
                x = input.transpose(0, 1) if self.batch_first else input
            elif input.dim() == 2:
                x = input.unsqueeze(1)
            else:
                raise ValueError(f"input: expected 2 or 3 dimensions, got {input.dim()}")
            rows, keywords = x.size(1), {}
        self._check(x, weights, states, (rows,) if batched else ())
        if cu_seqlens is None:
            if x.size(0) == 0:
                raise RuntimeError("input: expected at least one tick, got a sequence of length 0")
            if lengths is not None:
                if not batched:
                    raise ValueError("lengths: expected none for one sequence, which ends where it ends")
                keywords["lengths"] = row_lengths("lengths", lengths, rows)
            if resets is not None:
                flags = reset_flags(resets, tuple(input.shape[:-1]))
                flags = flags if batched else flags.unsqueeze(1)
                keywords["resets"] = flags.transpose(0, 1) if batched and self.batch_first else flags
        options = self._choose(x, seed, masks, return_all)
        states = states if batched else [s.unsqueeze(1) for s in states]
        if not states and len(weights) > 1 and autocasts(x):  # of the dtype of the input, as torch.nn's, in every layer
            states = [x.new_zeros(len(weights), rows, width) for width in self._widths]
        out, finals, every = self._run(x, weights, units, states, None, keywords, options)
        if not batched:
            out, *finals = (with_shape(t, (t.size(0), t.size(2))) for t in (out, *finals))
        elif self.batch_first and cu_seqlens is None:
            out = out.transpose(0, 1)
        if not return_all:
            return out, self._close(finals)
        if not batched:
            every = [with_shape(s, (*s.shape[:3], s.size(4))) for s in every]
        elif self.batch_first and cu_seqlens is None:
            every = [s.transpose(2, 3) for s in every]
        return out, self._close(finals), dict(zip(self.states, every, strict=True))

    def _forward_packed(
        self,
        packed: PackedSequence,
        weights: Sequence[Arguments],
        units: Sequence[Tensor | None] | None,
        states: Sequence[Tensor],
        resets: PackedSequence | None,
        return_all: bool,
        seed: Tensor | int | None,
        masks: Sequence[Masks] | None,
        alone: bool,
    ) -> tuple[Any, ...]:
        x, batch_sizes, order, inverse = packed
        if x.dim() != 2:
            raise RuntimeError(f"input: expected packed frames of 2 dimensions, got {x.dim()}")
        if not alone:
            raise ValueError("lengths, cu_seqlens: expected none with a PackedSequence, which has lengths of its own")
        for indices in (order, inverse):
            if indices is not None and indices.device != x.device:
                raise RuntimeError(f"input: expected its indices on {x.device}, as its data, got {indices.device}")
        self._check(x, weights, states, (functional.packed_rows(x, batch_sizes),))
        keywords = {} if resets is None else {"resets": packed_resets(resets, packed)}
        if order is not None:
            states = [s.index_select(1, order) for s in states]
            if masks is not None:  # the row is the last axis but one
                by_row = [(m.index_select(-2, order) if m is not None else None for m in mask[:4]) for mask in masks]
                masks = [Masks(*rows, mask.weight) for rows, mask in zip(by_row, masks, strict=True)]
        options = self._choose(x, seed, masks, return_all)
        if not states and autocasts(x):
            rows = functional.packed_rows(x, batch_sizes)
            states = [x.new_zeros(len(weights), rows, width) for width in self._widths]
        out, finals, every = self._run(x, weights, units, states, batch_sizes, keywords, options)
        if inverse is not None:
            finals = [s.index_select(1, inverse) for s in finals]
        result = PackedSequence(out, batch_sizes, order, inverse), self._close(finals)
        return (*result, dict(zip(self.states, every, strict=True))) if return_all else result

    def _one_after_another(
        self, x: Tensor, lengths: Any, cu_seqlens: Any, resets: Any
    ) -> tuple[Tensor, dict[str, Tensor]]:
        if lengths is not None:
            raise ValueError("lengths: expected none beside cu_seqlens, which says them, got both")
        if x.dim() != 2:
            raise ValueError(f"input: expected 2 dimensions with cu_seqlens, got {x.dim()}")
        offsets = row_lengths("cu_seqlens", cu_seqlens, None)
        lengths = offsets.diff()
        if not torch.compiler.is_compiling():  # a graph must not depend on values
            if offsets[0] != 0:
                raise ValueError(f"cu_seqlens: expected 0 first, got {int(offsets[0])}")
            if (lengths < 0).any():
                at = int((lengths < 0).nonzero()[0])
                before, after = offsets[at : at + 2].tolist()
                raise ValueError(f"cu_seqlens: expected no decrease, got {after} after {before}")
        keywords = {"lengths": lengths}
        if resets is not None:
            keywords["resets"] = reset_flags(resets, tuple(x.shape[:1]))
        return x, keywords

    def _run(
        self,
        x: Tensor,
        weights: Sequence[Arguments],
        units: Sequence[Tensor | None] | None,
        states: Sequence[Tensor],
        batch_sizes: Tensor | None,
        keywords: dict[str, Tensor],
        options: list[Options] | None,
    ) -> tuple[Tensor, Sequence[Tensor], Sequence[Tensor]]:
        """The whole stack; arguments as `rnnkernels.functional.layer` takes them, by layer and direction.

        Args:
            x: (T,B,I), or frames (N,I).
            states: as in `hx`, split, or none.
            keywords: lengths and resets, where given.

        Returns:
            out; final states as in `hx`; and, if the options say so, all states (L,D,T,B,·) or (L,D,N,·), else ().
        """
        if self._plain and options is None and not keywords:
            if not functional.has_kernel(x) and hasattr(torch, self.cell):
                return self._run_torch(x, weights, states, batch_sizes)
            if len(weights) == 1:  # spares one tick the stacking
                states = [s.squeeze(0) for s in states]
                out, *finals = self._layer(x, *weights[0], states, batch_sizes)
                return out, [torch.stack([s]) for s in finals], ()  # not a view: callers may change it in place
        every = options is not None and options[0].all_states
        initial = list(zip(*(s.unbind() for s in self._split(states)), strict=True)) if states else [()] * len(weights)
        count = self._op_states
        finals, sequences = [], []
        for first in range(0, len(weights), self._directions):
            if first and self.dropout and self.training:
                x = F.dropout(x, self.dropout)
            outs = []
            for k in range(first, first + self._directions):
                extra = self._extra(k, units, keywords, options)
                reverse = k != first
                out, *rest = self._layer(x, *weights[k], initial[k], batch_sizes, reverse, **extra)
                outs.append(out)
                finals.append(rest[:count])
                sequences.append((out, *rest[count:]))
            x = outs[0] if len(outs) == 1 else torch.cat(outs, -1)
        finals = self._join([torch.stack(s) for s in zip(*finals, strict=True)])
        if not every:
            return x, finals, ()
        shape = (self.num_layers, self._directions)
        hs, *others = zip(*sequences, strict=True)  # the last h is the output, of which the caller gets no second view
        sequences = self._join([torch.stack(hs), *map(_stack, others)])
        return x, finals, [with_shape(s, (*shape, *s.shape[1:])) for s in sequences]

    def _extra(
        self,
        k: int,
        units: Sequence[Tensor | None] | None,
        keywords: dict[str, Tensor],
        options: list[Options] | None,
    ) -> dict[str, Any]:
        """What `rnnkernels.functional.layer` is given by name."""
        extra: dict[str, Any] = dict(keywords)
        if units is not None:
            extra["unit"] = units[k]
        if options is not None:
            extra["options"] = options[k]
        if "resets" in keywords and self._reset_names[k]:
            extra["reset_states"] = self._split([getattr(self, name) for name in self._reset_names[k]])
        return extra

    def _run_torch(
        self, x: Tensor, weights: Sequence[Arguments], states: Sequence[Tensor], batch_sizes: Tensor | None
    ) -> tuple[Tensor, list[Tensor], tuple[()]]:
        """The same by torch's own op, on devices that have no kernel here."""
        if not states:
            rows = x.size(1) if batch_sizes is None else functional.packed_rows(x, batch_sizes)
            states = [x.new_zeros(len(weights), rows, width) for width in self._widths]
        flat = [w for group in weights for w in group if w is not None]
        options = (self.bias, self.num_layers, self.dropout, self.training, self.bidirectional)
        run, hx = getattr(torch, self.cell), self._close(states)
        if batch_sizes is None:
            out, *finals = run(x, hx, flat, *options, False)
        else:
            out, *finals = run(x, batch_sizes, hx, flat, *options)
        return out, finals, ()

    def _open(self, hx: States) -> Sequence[Tensor]:
        """The states in the caller's `hx`."""
        count = len(self.states)
        if count == 1:
            return [hx]
        if isinstance(hx, Tensor) or len(hx) != count:
            kind = IndexError if len(hx) < count else RuntimeError  # what torch.nn happens to raise
            got = "one tensor" if isinstance(hx, Tensor) else f"{len(hx)} of them"
            raise kind(f"hx: expected {self._said()}, got {got}")
        return hx

    def _close(self, states: Sequence[Tensor]) -> States:
        """The inverse of `_open`."""
        return states[0] if len(self.states) == 1 else tuple(states)

    def _spread(self, masks: Masks | Sequence[Masks]) -> Sequence[Masks]:
        """One `Masks` for each layer and direction."""
        masks = [masks] if isinstance(masks, Masks) else masks
        if len(masks) != self._streams:
            raise ValueError(f"masks: expected {self._streams}, one a layer and direction, got {len(masks)}")
        return masks

    @property
    def _directions(self) -> int:
        return 2 if self.bidirectional else 1

    @property
    def _streams(self) -> int:
        return self.num_layers * self._directions

    def _suffixes(self) -> list[str]:
        """What the names of every layer's and direction's parameters end in."""
        return [f"_l{k}{way}" for k in range(self.num_layers) for way in ("", "_reverse")[: self._directions]]

    def _name_weights(self) -> None:
        """Prepares what calls need of the arguments."""
        names = self._parameter_names()
        there = [self._shape(name, self.input_size) is not None for name in names]
        resets = len(self.states)
        self._weight_names, self._reset_names = [], []
        for suffix in self._suffixes():
            full = [name + suffix if given else None for name, given in zip(names, there, strict=True)]
            self._weight_names.append(full[:-resets])
            self._reset_names.append([name for name in full[-resets:] if name is not None])
        self._settle()

    def _check_arguments(self, dropout: object) -> None:
        if probability("dropout", dropout) > 0 and self.num_layers == 1:
            warnings.warn(
                "dropout acts between layers, after all but the last one: expected num_layers greater than 1, "
                f"but got dropout={dropout} and num_layers={self.num_layers}",
                stacklevel=3,
            )
        for name in ("input_size", "hidden_size", "num_layers"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: expected a positive number, got {getattr(self, name)}")
        if self.proj_size and not self.projects:
            raise ValueError(f"proj_size: expected none, only LSTM projects, got {self.proj_size}")
        if not 0 <= self.proj_size < self.hidden_size:
            raise ValueError(
                f"proj_size: expected 0 to {self.hidden_size - 1}, below hidden_size, got {self.proj_size}"
            )

    def _check(self, x: Tensor, weights: Sequence[Arguments], states: Sequence[Tensor], rows: tuple[int, ...]) -> None:
        """Refuses what torch.nn refuses; the ops check the rest."""
        shapes = [(len(weights), *rows, width) for width in self._widths] if states else ()
        check(x, weights[0][0], self.input_size, states, shapes, wrong_dtype=ValueError)
