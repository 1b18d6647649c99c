"""`Base`: what every layer and every Cell is, a table of parameters with options."""

import math
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from .. import functional
from ..functional import autocasts
from ..options import Masks, Options
from .checks import choice, number_or_none, of_type, one_seed, positive, probability, size
from .settings import Settings

__all__ = ["Base"]

Arguments = Sequence[Tensor | None]  # w_ih, w_hh, b_ih, b_hh, w_hr of `rnnkernels.functional.layer`
States = Tensor | tuple[Tensor, ...]

OPS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")  # the parameters behind `Arguments`
RATES = ("zoneout", "zoneout_cell", "recurrent_dropout", "input_dropout", "weight_dropout")
SETTINGS = (
    *RATES,
    *("recurrent_dropout_mode", "cell_clip", "gradient_clip", "forget_bias", "recompute", "learn_reset_state"),
)
PREPARED = (  # see `_settle`
    *("_weight_names", "_reset_names", "_options", "_bare", "_random", "_arranged", "_widths", "_plain"),
)


class Base(Settings):
    """A recurrent module, before it is known whether it walks through time or ticks once.

    What differs between families of cells stands in `families.py` and is mixed in before this class.

    Options are attributes: changing one later takes effect at the next call. Their defaults stand on the class, so that
    a module made of a torch.nn one has them too.
    """

    # Facts of the family
    cell: str  # the name in `rnnkernels.functional.layer`
    table: dict[str, int]  # parameters besides `weight_hr`, in order, and their rows in multiples of hidden_size
    states: tuple[str, ...] = ("h",)  # as in `hx`, the one that feeds back first
    forget_gate_rows: int | None = None  # which multiple of hidden_size in the biases is the forget gate's
    projects = False  # whether `proj_size` may be given
    own: ClassVar[dict[str, Any]] = {}  # keyword arguments of the family and their defaults
    default_bias: bool | str = True

    checks = {
        **dict.fromkeys(("input_size", "hidden_size"), size),
        "proj_size": lambda name, value: 0 if value is False else size(name, value),  # as torch.nn.LSTM takes it
        "bias": of_type(bool),
        **dict.fromkeys(RATES, probability),
        "recurrent_dropout_mode": choice("sequence", "step"),
        "cell_clip": positive,
        "gradient_clip": positive,
        "forget_bias": number_or_none,
        "recompute": choice(False, True),
        "learn_reset_state": choice(False, True),
    }
    fixed = frozenset({"input_size", "hidden_size", "bias", "proj_size", "learn_reset_state"})

    # Arguments
    input_size: int
    hidden_size: int
    bias: bool | str
    proj_size = 0
    zoneout = 0.0
    zoneout_cell = 0.0
    recurrent_dropout = 0.0
    recurrent_dropout_mode = "sequence"
    input_dropout = 0.0
    weight_dropout = 0.0
    cell_clip: float | None = None
    gradient_clip: float | None = None
    forget_bias: float | None = None
    recompute = False
    learn_reset_state = False

    def _set(self, settings: dict[str, Any]) -> None:
        """Takes over the options given to the constructor."""
        for name in SETTINGS:
            if name in settings:
                setattr(self, name, settings[name])
        self._check_settings()

    @property
    def _is_built(self) -> bool:
        return "_options" in self.__dict__

    # The family's hooks

    @property
    def fed_back(self) -> int:
        """Columns of `weight_hh` (P)."""
        return self.proj_size or self.hidden_size

    @property
    def has_recurrent_product(self) -> bool:
        return "weight_hh" in self.table

    def _width(self, state: str) -> int:
        """Units of a state."""
        return self.proj_size or self.hidden_size if state == "h" else self.hidden_size

    def _shape(self, name: str, inputs: int) -> tuple[int, ...] | None:
        """The shape of a parameter, None where there is none."""
        if name == "weight_hr":
            return (self.proj_size, self.hidden_size) if self.proj_size else None
        if name.startswith("reset_"):
            return (self._width(name.removeprefix("reset_")),) if self.learn_reset_state else None
        if name not in self.table or (name.startswith("bias") and not self.bias):
            return None
        rows = self.table[name] * self.hidden_size
        return {"weight_ih": (rows, inputs), "weight_hh": (rows, self.fed_back)}.get(name, (rows,))

    def _arrange(self, k: int, *parameters: Tensor | None) -> tuple[Tensor | None, ...]:
        """What `rnnkernels.functional.layer` wants of the parameters of `OPS` and then the rest of the table.

        k is the layer times directions plus the direction.

        Returns:
            w_ih, w_hh, b_ih, b_hh, w_hr, unit.
        """
        return *parameters[:5], None

    def _arranges(self) -> bool:
        """Whether `_arrange` has anything to do."""
        return type(self)._arrange is not Base._arrange

    @property
    def _op_states(self) -> int:
        """How many states the op has."""
        return len(self.states)

    def _said(self) -> str:
        """What `hx` is made of, in words, for cells with several states."""
        return f"{'a pair of' if len(self.states) == 2 else len(self.states)} tensors ({', '.join(self.states)})"

    def _split(self, states: Sequence[Tensor]) -> Sequence[Tensor]:
        """The states of the op, of those in `hx`."""
        return states

    def _join(self, states: Sequence[Tensor]) -> Sequence[Tensor]:
        """The inverse of `_split`."""
        return states

    def _cell_options(self) -> dict[str, Any]:
        """Fields of `Options` that the family sets."""
        return {}

    # Parameters

    def _parameter_names(self) -> tuple[str, ...]:
        """Every name the family may have a parameter under, those of `OPS` first; less the suffix of the layer."""
        rest = [name for name in self.table if name not in OPS]
        return *OPS, *rest, *(f"reset_{state}" for state in self.states)

    def reset_parameters(self) -> None:
        """Draws weights and biases from U(-k, k), k = 1 / sqrt(hidden_size), in torch.nn's order.

        Gains of normalisations start at 1, their shifts and learned reset states at 0. With `forget_bias` the forget
        gate's two biases sum to it.
        """
        bound = 1.0 / math.sqrt(self.hidden_size) if self.hidden_size > 0 else 0
        for name, weight in self.named_parameters():
            if name.startswith("ln_"):
                nn.init.constant_(weight, 1.0 if "weight" in name else 0.0)
            elif name.startswith("reset_"):
                nn.init.zeros_(weight)
            else:
                nn.init.uniform_(weight, -bound, bound)
        if self.forget_bias is not None:
            rows = self._forget_rows()
            for name, weight in self.named_parameters():
                if name.startswith("bias"):
                    with torch.no_grad():
                        weight[rows] = self.forget_bias if name.startswith("bias_ih") else 0.0

    def _forget_rows(self) -> slice:
        first = self.forget_gate_rows * self.hidden_size
        return slice(first, first + self.hidden_size)

    # Options

    def _settle(self) -> None:
        """Prepares what calls need of the options, so that a call does not."""
        self._options = [
            Options(
                **{rate: float(getattr(self, rate)) for rate in RATES},
                step=self.recurrent_dropout_mode == "step",
                cell_clip=float(self.cell_clip or 0),
                gradient_clip=float(self.gradient_clip or 0),
                recompute=self.recompute,
                stream=k,
                **self._cell_options(),
            )
            for k in range(self._streams)
        ]
        self._bare = self._options[0] == Options()  # the op's own defaults will do
        self._random = any(getattr(self, rate) for rate in RATES)
        self._arranged = self._arranges()
        self._widths = [self._width(state) for state in self.states]
        self._plain = self._bare and not self._arranged and type(self)._split is Base._split

    @property
    def _directions(self) -> int:
        return 1

    @property
    def _streams(self) -> int:
        """Layers times directions."""
        return 1

    def _choose(
        self, x: Tensor, seed: Tensor | int | None, masks: Sequence[Masks] | None, every: bool = False
    ) -> list[Options] | None:
        """The options of a call, one for each layer and direction; None: the op's own defaults will do."""
        if self._bare and seed is None and masks is None and not every:
            return None
        if seed is None and masks is None and self._random and self.training:
            seed = torch.randint(-(2**63), 2**63 - 1, (), dtype=torch.int64, device=x.device)
        if seed is None and masks is None and not every:
            return self._options
        if seed is not None and masks is not None:
            raise ValueError("seed: expected none beside masks, which it would draw, got both")
        if seed is not None:
            seed = one_seed(seed)
        return [
            o._replace(seed=seed, all_states=every, masks=o.masks if masks is None else masks[k])
            for k, o in enumerate(self._options)
        ]

    def _check_settings(self) -> None:
        kind = type(self).__name__
        for name in ("zoneout_cell", "cell_clip"):
            if getattr(self, name) and "c" not in self.states:
                raise ValueError(f"{name}: expected none, {kind} has no cell state, got {getattr(self, name)}")
        for name in ("recurrent_dropout", "weight_dropout"):
            if getattr(self, name) and not self.has_recurrent_product:
                raise ValueError(f"{name}: expected 0, {kind} has no recurrent product, got {getattr(self, name)}")
        for name in ("zoneout", "zoneout_cell"):
            if getattr(self, name) and self.proj_size:
                raise ValueError(f"{name}: expected 0 where proj_size is given, got {getattr(self, name)}")
        if self.forget_bias is not None:
            if self.forget_gate_rows is None:
                raise ValueError(f"forget_bias: expected None, {kind} has no forget gate, got {self.forget_bias}")
            if not self.bias or self.bias == "none":
                raise ValueError(f"forget_bias: expected None without biases, got {self.forget_bias}")

    def _changed(self) -> Iterator[tuple[str, Any]]:
        """Options and the family's own arguments that are not the default, as `extra_repr` shows them."""
        for name, default in self.own.items():
            if getattr(self, name) != default:
                yield name, getattr(self, name)
        for name in SETTINGS:
            if getattr(self, name) != getattr(Base, name):
                yield name, getattr(self, name)

    # Weights

    def _layer(self, *tensors: Any, **keywords: Any) -> tuple[Tensor, ...]:
        """`rnnkernels.functional.layer` of this cell, whose complaint about a parameter names it as users know it."""
        try:
            return functional.layer(self.cell, *tensors, **keywords)
        except RuntimeError as error:
            self._name_parameter(error)
            raise

    def _weights(self) -> tuple[Sequence[Arguments], Sequence[Tensor | None] | None]:
        """For each layer and direction: what `layer` takes as weights, and `unit`s, None where the cell has none."""
        own = self._parameters
        try:
            groups = [[None if n is None else own[n] for n in names] for names in self._weight_names]
        except KeyError:  # parametrized, or taken over by a hook
            groups = [[None if n is None else getattr(self, n) for n in names] for names in self._weight_names]
        if not self._arranged:
            return groups, None
        weight = groups[0][0]
        if autocasts(weight) and weight.dtype != torch.float64:  # as if the parameters were of its dtype
            dtype = torch.get_autocast_dtype(weight.device.type)
            groups = [[None if p is None else p.to(dtype) for p in group] for group in groups]
        groups = [self._arrange(k, *group) for k, group in enumerate(groups)]
        return [group[:5] for group in groups], [group[5] for group in groups]
