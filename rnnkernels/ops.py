"""The ops as torch sees them: one loop over the list of cells, and the two of the Neural Turing Machine.

What they have in common, derivatives and how eager code reaches them, is in `fused`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from . import _C, reference
from .fused import Fused, any_requires_grad, batched, folded, is_transformed, one_by_one
from .options import PLAIN, Conventions, Options

__all__ = ["LAYERS", "NTM", "NTM_STEP", "Layer"]


class Layer(Fused):
    """One direction of one layer of one cell: its pair of ops, and how torch differentiates and batches them.

    Arguments stand in one order everywhere: the tensors x, w_ih, w_hh, b_ih, b_hh, w_hr, unit, *states, *reset states;
    then the configuration: batch_sizes, reverse, lengths, resets, and what `Options.flat` gives.
    Shapes are those of `rnnkernels.functional.layer`.

    Attributes:
        name: the cell's, and its op's.
        gates, states: how many of each (G, S).
        saved_rows, scales: numbers saved of a frame for backward are saved_rows * H + scales; and H more with w_hr,
            with zoneout of the cell state, and in half precision.
        projection: whether w_hr may be given.
        parameters: H-vectors in `unit`.
        fed: states, from the first, that may feed back; 0: no recurrent product.
        cell_state: index of the cell state, 0: none.
        first_input, first_bias_ih, first_bias_hh: gates before it have no rows in w_ih, b_ih, b_hh.
        shared: gates, as bits, that the cells of a memory block share.
    """

    config = (
        "Tensor? batch_sizes, bool reverse, Tensor? lengths, Tensor? resets, Tensor? seed, Tensor? zoneout_mask, "
        "Tensor? zoneout_cell_mask, Tensor? recurrent_mask, Tensor? input_mask, Tensor? weight_mask, "
        "float[] numbers, int[] choices"
    )
    defaults = (None, False, None, None, *PLAIN.flat())
    weights = range(1, 7)
    dtypes = (torch.float32, torch.float64, torch.bfloat16, torch.float16)

    def __init__(
        self,
        name: str,
        gates: int,
        states: int,
        saved_rows: int,
        scales: int,
        projection: bool,
        parameters: int,
        fed: int,
        cell_state: int,
        first_input: int,
        first_bias_ih: int,
        first_bias_hh: int,
        shared: int,
        **_: Any,
    ) -> None:
        self.name, self.gates, self.states = name, gates, states
        self.saved_rows, self.scales, self.projection, self.parameters = saved_rows, scales, projection, parameters
        self.fed, self.cell_state, self.first_input = fed, cell_state, first_input
        self.first_bias_ih, self.first_bias_hh, self.shared = first_bias_ih, first_bias_hh, shared
        self.tensors, self.grads = 7 + 2 * states, 2 * states
        self.register()
        initial = [a.name for a in self.op._schema.arguments[7 : 7 + states]]  # h0, c0, ...
        self.wide = ("unit", *initial, *(f"grad_{name.removesuffix('0')}_n" for name in initial))

    def __call__(self, *args: Any, all_states: bool = False) -> tuple[Tensor, ...]:
        """Runs `args` (see the class), saving for backward only what somebody may ask for.

        `args` may end with the tensors: the configuration is then that of a layer without any option, walking forward.
        Returns `(out, *final states)`, with `all_states` the sequences of the states but the first as well.
        """
        eager = not (torch.compiler.is_compiling() or torch.jit.is_tracing() or is_transformed())
        derived = torch.is_grad_enabled() and any_requires_grad(args)
        if len(args) == self.tensors:
            if eager and not derived:  # what is left out costs nothing, and a tick is short
                return self.run(*args)[: 1 + self.states]
            args = (*args, None, False, None, None, *PLAIN.flat())
        results = self.call(args, (all_states,), derived)
        return results[: -1 if all_states else 1 + self.states]

    # Shapes

    def _saved_shape(self, tensors: Sequence[Tensor | None], config: tuple, save: bool) -> tuple[int, ...]:
        x, w_hr, states = tensors[0], tensors[5], tensors[7 : 7 + self.states]
        batch_sizes, options = config[0], Options.of_flat(*config[4:])
        hidden = states[0].size(1) if w_hr is None else w_hr.size(1)
        half = x.dtype in (torch.bfloat16, torch.float16)
        if not save:
            return (0,)
        raw = self.cell_state > 0 and (options.zoneout_cell > 0 or options.masks.zoneout_cell is not None)
        rows = self.saved_rows + (w_hr is not None) + raw
        if options.recompute:  # whose shape depends on the sizes' values
            ticks, batch = int(x.size(0) if batch_sizes is None else batch_sizes.size(0)), int(states[0].size(0))
            piece = options.recompute
            if piece == 1:
                piece = _C.recompute_piece(ticks, batch, rows * int(hidden) + self.scales)
            return (-(-ticks // piece), batch * (states[0].size(1) + (self.states - 1) * hidden))
        numbers = rows * hidden + self.scales + half * states[0].size(1)  # with h before it is rounded
        return (x.size(0) * x.size(1) if x.dim() == 3 else x.size(0), numbers)

    def _fake(self, *args: Any) -> tuple[Tensor, ...]:
        *args, save, all_states = self._whole(args, self.tensors, (False, False))
        tensors, config = args[: self.tensors], args[self.tensors :]
        x, states = tensors[0], tensors[7 : 7 + self.states]
        wide = torch.promote_types(x.dtype, torch.float32)
        return (
            x.new_empty((*x.shape[:-1], states[0].size(1))),
            *(s.new_empty(s.shape) for s in states),
            *(x.new_empty((*x.shape[:-1], s.size(1)) if all_states else (0,)) for s in states[1:]),
            x.new_empty(self._saved_shape(tensors, config, save), dtype=wide),
        )

    # Results

    def _results(self, flags: Sequence[Any]) -> int:
        return self.grads if flags[1] else 1 + self.states

    def _arrives_all(self, grads: Sequence[Tensor | None]) -> bool:
        return any(g is not None for g in grads[1 + self.states :])

    def _plain(self, config: tuple, all_states: bool) -> Callable[..., tuple[Tensor, ...]]:
        """The forward op as a differentiable function of its tensors."""
        batch_sizes, reverse, lengths, resets, *flat = config
        options = Options.of_flat(*flat)._replace(all_states=all_states)

        def run(*tensors: Tensor | None) -> tuple[Tensor, ...]:
            states, reset_states = tensors[7 : 7 + self.states], tensors[7 + self.states :]
            with torch.autocast(tensors[0].device.type, enabled=False):
                return reference.layer(
                    self.name, *tensors[:6], states, batch_sizes, reverse, unit=tensors[6], lengths=lengths,
                    resets=resets, reset_states=reset_states, options=options,
                )  # fmt: skip

        return run

    def _refuse_double(self, config: tuple) -> None:
        if not Options.of_flat(*config[4:]).is_true_gradient:
            raise RuntimeError(
                f"{self.name}: expected gradient='full' and no gradient_clip for a double backward: a truncated or "
                "clipped gradient is not the derivative of the forward"
            )

    # Batching: the vmapped axis joins the batch, unless weights or their gradients carry it, or rows differ

    @staticmethod
    def _rows_alike(config: tuple) -> bool:
        choices = config[-1]
        return all(part is None for part in config[2:-2]) and not (choices and choices[-1])

    def _vmap(self, call: Callable, info: Any, in_dims: tuple, *args: Any) -> tuple[tuple, tuple]:
        args, in_dims = self._whole(args, self.tensors, (False, False)), (*in_dims, *[None] * 14)
        tensors, config, flags = args[: self.tensors], args[self.tensors : -2], args[-2:]
        fixed = in_dims[1:7] + in_dims[7 + self.states : self.tensors]
        if batched(fixed) or not self._rows_alike(config):
            return one_by_one(call, info.batch_size, in_dims, args)
        save, all_states = flags
        rows = 1 if config[0] is None else 0  # the axis of x and out that holds the batch
        states = [0] * self.states
        inputs = (rows, *[None] * 6, *states, *[None] * self.states)
        outputs = (rows, *states, *[rows if all_states else None] * (self.states - 1), 0 if save else None)
        return self._fold(call, info.batch_size, in_dims, inputs, outputs, tensors, config, flags)

    def _backward_vmap(self, call: Callable, info: Any, in_dims: tuple, *args: Any) -> tuple[tuple, tuple]:
        n = 2 * self.states + self.tensors + 2
        args, in_dims = self._whole(args, n, (True, True)), (*in_dims, *[None] * 14)
        tensors, config, flags = args[:n], args[n:-2], args[-2:]
        needs_x, needs_w = flags
        data = in_dims[2 * self.states :]
        fixed = data[1:7] + data[7 + self.states : self.tensors]
        if needs_w or batched(fixed) or not self._rows_alike(config):
            return one_by_one(call, info.batch_size, in_dims, args)
        rows = 1 if config[0] is None else 0
        states, none = [0] * self.states, [None] * self.states
        grads = (rows, *states, *[rows] * (self.states - 1))
        inputs = (*grads, rows, *[None] * 6, *states, *none, rows, 0)
        outputs = (rows if needs_x else None, *[None] * 6, *states, *none)
        return self._fold(call, info.batch_size, in_dims, inputs, outputs, tensors, config, flags)

    @staticmethod
    def _fold(call: Callable, size: int, *args: Any) -> tuple[tuple, tuple]:
        *args, (batch_sizes, *config), flags = args
        return folded(call, size, *args, (None if batch_sizes is None else batch_sizes * size, *config, *flags))


class Machine(Fused):
    """The Neural Turing Machine over a sequence, `rnnkernels::ntm`, or one tick of its heads, `rnnkernels::ntm_step`.

    Shapes are those of `rnnkernels.functional.ntm` and `ntm_step`. The configuration of the sequence begins with the
    rows' lengths; it ends with what `Conventions.flat` gives.

    Attributes:
        inputs, outputs: the axis of rows in each tensor and result; None: it has none.
    """

    def __init__(self, name: str, inputs: tuple, outputs: tuple, weights: range, lengths: bool) -> None:
        self.name, self.inputs, self.outputs, self.weights = name, inputs, outputs, weights
        self.tensors, self.grads, self.has_lengths = len(inputs), len(outputs), lengths
        self.config = ("Tensor? lengths, " if lengths else "") + "float[] numbers, int[] choices"
        self.register()

    def __call__(self, *args: Any, keep: bool = False) -> tuple[Tensor, ...]:
        """The results of tensors and configuration, and what was saved: with `keep` whether anybody may ask or not."""
        derived = torch.is_grad_enabled() and any_requires_grad(args)
        if keep and not (derived or is_transformed()):
            return self.run(*args, True)
        return self.call(args, (), derived)

    @staticmethod
    def _conventions(config: tuple) -> Conventions:
        return Conventions.of_flat(*config[-2:])

    def _fake(self, *args: Any) -> tuple[Tensor, ...]:
        *args, save = self._whole(args, self.tensors + self.required, (False,))
        tensors, config = args[: self.tensors], args[self.tensors :]
        c, (memory, weightings) = self._conventions(config), (tensors[-3], tensors[-1])
        if not self.has_lengths:
            memory, weightings = tensors[1:]
        batch, rows, width = memory.shape
        choices = list(config[-1])
        if self.has_lengths:
            x, hidden = tensors[0], tensors[2].size(1)
            record = _C.ntm_record(int(x.size(2)), int(hidden), int(rows), int(width), choices)
            memories = torch.sym_max(x.size(0) - 1, 0) // record["ticks"]
            frames, numbers = (x.size(0) + memories * record["chunks"]) * batch, record["numbers"]
            results = (x.new_empty(x.size(0), batch, tensors[4].size(0)), *(torch.empty_like(t) for t in tensors[6:]))
            if c.recompute:
                ticks, batch = int(x.size(0)), int(batch)
                piece = c.recompute if c.recompute > 1 else _C.recompute_piece(ticks, batch, numbers)
                frames, numbers = -(-ticks // piece), sum(t.numel() for t in tensors[6:])
        else:
            numbers = _C.ntm_record(c.parameters(int(width)), 0, int(rows), int(width), choices)["numbers"]
            frames = batch
            results = (memory.new_empty(batch, c.read_heads, width), *(torch.empty_like(t) for t in tensors[1:]))
        return *results, memory.new_empty((frames, numbers) if save else (0,))

    def _plain(self, config: tuple, all_results: bool) -> Callable[..., tuple[Tensor, ...]]:
        c = self._conventions(config)

        def run(*tensors: Tensor | None) -> tuple[Tensor, ...]:
            with torch.autocast(tensors[0].device.type, enabled=False):
                if self.has_lengths:
                    return reference.ntm.ntm(*tensors, config[0], c)
                return reference.ntm.step(*tensors, c)

        return run

    def _batches_rows(self, in_dims: Sequence[Any], config: tuple, weights: bool) -> bool:
        """Whether samples can be rows of one call."""
        alike = not weights and not batched([in_dims[i] for i in self.weights])
        return alike and not self._conventions(config).recompute and (not self.has_lengths or config[0] is None)

    def _vmap(self, call: Callable, info: Any, in_dims: tuple, *args: Any) -> tuple[tuple, tuple]:
        args, in_dims = self._whole(args, self.tensors + self.required, (False,)), (*in_dims, None)
        tensors, rest = args[: self.tensors], args[self.tensors :]
        if not self._batches_rows(in_dims, rest[:-1], False):
            return one_by_one(call, info.batch_size, in_dims, args)
        outputs = (*self.outputs, 0 if rest[-1] else None)
        return folded(call, info.batch_size, in_dims, self.inputs, outputs, tensors, rest)

    def _backward_vmap(self, call: Callable, info: Any, in_dims: tuple, *args: Any) -> tuple[tuple, tuple]:
        n = self.grads + self.tensors + 2
        args, in_dims = self._whole(args, n + self.required, (True, True)), (*in_dims, None, None)
        tensors, rest, (needs_x, needs_w) = args[:n], args[n:], args[-2:]
        if not self._batches_rows(in_dims[self.grads :], rest[:-2], needs_w and bool(self.weights)):
            return one_by_one(call, info.batch_size, in_dims, args)
        inputs = (*self.outputs, *self.inputs, self.outputs[0], 0)
        outputs = (self.inputs[0] if needs_x else None, *self.inputs[1:])
        return folded(call, info.batch_size, in_dims, inputs, outputs, tensors, rest)


def _layers() -> dict[str, Layer]:
    missing = [cell["name"] for cell in _C.cells() if cell["name"] not in reference.CELLS]
    if missing:
        raise ImportError(f"rnnkernels/reference/cells.py: expected a function for every cell, none for {missing}")
    return {cell["name"]: Layer(**cell) for cell in _C.cells()}


LAYERS: dict[str, Layer] = _layers()
# x, controller, w_heads, b_heads, w_out, b_out, h0, c0, memory0, reads0, weightings0; y, h_n, c_n, memory_n, ...
NTM = Machine("ntm", (1, *[None] * 5, 1, 1, 0, 0, 0), (1, 1, 1, 0, 0, 0), range(1, 6), True)
# parameters, memory0, weightings0; reads, memory_n, weightings_n
NTM_STEP = Machine("ntm_step", (0, 0, 0), (0, 0, 0), range(0), False)
