"""The functions all modules go through: a recurrent layer, the Neural Turing Machine, and parts of it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from . import _C, reference
from .fused import any_requires_grad, warn_once
from .messages import shown
from .ops import LAYERS, NTM, NTM_STEP, Layer, Machine
from .options import GRAVES2014, PLAIN, Conventions, Options

__all__ = ["layer", "ntm", "ntm_address", "ntm_read", "ntm_step", "ntm_write"]


def layer(
    cell: str,
    x: Tensor,
    w_ih: Tensor,
    w_hh: Tensor | None = None,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
    w_hr: Tensor | None = None,
    states: Sequence[Tensor] = (),
    batch_sizes: Tensor | None = None,
    reverse: bool = False,
    *,
    unit: Tensor | None = None,
    lengths: Tensor | None = None,
    resets: Tensor | None = None,
    reset_states: Sequence[Tensor | None] = (),
    options: Options = PLAIN,
) -> tuple[Tensor, ...]:
    """Runs one direction of one layer over a whole sequence.

    Axes: T ticks, B rows of the batch, I inputs, G gates of the cell, H hidden units, P fed back (H without `w_hr`).
    All floating point tensors share one dtype (float32, float64, bfloat16 or float16; the last two are computed and
    carried in float32) and one device; beside bfloat16 or float16, `states` and `unit` may be float32, and final states
    are of the dtype of `states`. Under autocast all are cast to its dtype, except float32 states. Strides are free.

    Args:
        cell: one of `rnnkernels.info()["cells"]`: "lstm", "gru", "rnn_tanh", ...
        x: input (T,B,I); packed frames (N,I), with `batch_sizes`; or sequences one after another (N,I), with
            `lengths`.
        w_ih: input weights (G*H,I), gates in torch.nn's order; only the gates that take inputs have rows.
        w_hh: recurrent weights (G*H,P); None for cells without a recurrent product.
        b_ih, b_hh: biases (G*H), each may be None.
        w_hr: projection of the hidden state (P,H), LSTM only, or None.
        states: initial states, zero where none are given: h (B,P), and for LSTM c (B,H).
        batch_sizes: rows alive at each tick, int64 (T,) on the CPU, non-increasing, as in `PackedSequence`.
        reverse: walk from each row's own last tick to its first.
        unit: parameters of each hidden unit (K*H) of cells that have such: peepholes, gains, ...
        lengths: ticks of each row, int64 (B,) on the CPU, in any order, 0 allowed. Past its end a row's state stays,
            its output is zero, and so are all gradients.
        resets: bool, (T,B) or (N,), as x lies: where True, the states become `reset_states` before that tick; walking
            in reverse, between that tick and the one before it.
        reset_states: one for each state, (P) or (H), None for zero; or none at all.
        options: regularisers, limits, masks and what is remembered.

    Returns:
        `(out, *final states)`: out (T,B,P) or (N,P), and each row's states after its last tick, shaped as `states`.
        With `options.all_states` also every state but the first after every tick, laid out as out.

    Raises:
        ValueError: an unknown cell.
        RuntimeError: wrong rank, size, dtype, device, number of states, batch sizes or lengths; an option the cell
            cannot have; a double backward through a truncated or clipped gradient.
    """
    op = LAYERS.get(cell)
    if op is None:
        raise ValueError(f"cell: expected one of {', '.join(LAYERS)}, got {shown(cell)}")
    if not states:
        states = _zero_states(op, x, w_ih, w_hh, w_hr, batch_sizes, lengths, options.block_size)
    elif len(states) != op.states:
        raise RuntimeError(f"states: expected {op.states} for {cell}, got {len(states)}")
    if not reset_states:
        reset_states = (None,) * op.states
    elif len(reset_states) != op.states:
        raise RuntimeError(f"reset_states: expected {op.states} for {cell}, got {len(reset_states)}")
    tensors = (x, w_ih, w_hh, b_ih, b_hh, w_hr, unit, *states, *reset_states)
    if autocasts(x):
        tensors = _autocast(tensors, torch.get_autocast_dtype(x.device.type), range(7, 7 + op.states))
    if options is not PLAIN and torch.is_grad_enabled() and any_requires_grad(options.masks):
        raise RuntimeError("masks: expected tensors without requires_grad, since no gradient of a mask is computed")
    if not has_kernel(x):
        warn_once(f"{cell} runs in plain torch, tick by tick: this build has no kernel for device {x.device.type!r}")
        initial, resetting = tensors[7 : 7 + op.states], tensors[7 + op.states :]
        return reference.layer(
            cell, *tensors[:6], initial, batch_sizes, reverse, unit=tensors[6], lengths=lengths, resets=resets,
            reset_states=resetting, options=options,
        )  # fmt: skip
    if options is PLAIN and not reverse and batch_sizes is None and lengths is None and resets is None:
        return op(*tensors)
    return op(*tensors, batch_sizes, reverse, lengths, resets, *options.flat(), all_states=options.all_states)


def packed_rows(x: Tensor, batch_sizes: Tensor) -> int:
    """Rows of packed frames x (N,I), never more than N whatever `batch_sizes` says: the op refuses that later."""
    if batch_sizes.dim() != 1:
        raise RuntimeError(f"batch_sizes: expected shape (T,), got {tuple(batch_sizes.shape)}")
    rows = int(batch_sizes[0]) if batch_sizes.size(0) else 0
    return rows if torch.compiler.is_compiling() else max(0, min(rows, x.size(0)))


def _zero_states(
    op: Layer,
    x: Tensor,
    w_ih: Tensor,
    w_hh: Tensor | None,
    w_hr: Tensor | None,
    batch_sizes: Tensor | None,
    lengths: Tensor | None,
    block_size: int,
) -> list[Tensor]:
    if x.dim() == 3:
        rows = x.size(1)
    elif batch_sizes is not None:
        rows = packed_rows(x, batch_sizes)
    else:
        rows = 0 if lengths is None else lengths.numel()  # neither: the op says what is missing
    if w_hr is None and op.fed == 1:
        return [x.new_zeros(rows, w_hh.size(1))] * op.states
    inputs = range(op.first_input, op.gates)
    shared = sum(op.shared >> g & 1 for g in inputs)
    hidden = w_ih.size(0) * block_size // ((len(inputs) - shared) * block_size + shared)
    h = x.new_zeros(rows, hidden if w_hr is None else w_hr.size(0))
    c = h if w_hr is None else x.new_zeros(rows, hidden)
    gate = h if block_size == 1 else x.new_zeros(rows, hidden // block_size)
    return [h, *(gate if s < op.fed else c for s in range(1, op.states))]


CUDA = _C.build_info()["cuda"] not in (False, "executed on the CPU")  # kernels for cards are built in


def has_kernel(x: Tensor) -> bool:
    """Whether there are kernels for the device of `x`."""
    return x.is_cpu or x.is_meta or (CUDA and x.is_cuda)


def autocasts(x: Tensor) -> bool:
    """Whether autocast is on for the device of `x`."""
    return torch.amp.is_autocast_available(x.device.type) and torch.is_autocast_enabled(x.device.type)


def _autocast(tensors: Sequence[Tensor | None], dtype: torch.dtype, states: range) -> list[Tensor | None]:
    """Casts what autocast casts: floating point tensors, float64 excepted.

    Float32 states, whose places are `states`, stay: rounded at every call, a state that is carried through many calls
    stops changing, since its change at one time step is less than half a unit in its last place.
    """

    def cast(place: int, t: Tensor | None) -> Tensor | None:
        kept = (torch.float64, torch.float32) if place in states else (torch.float64,)
        return t.to(dtype) if t is not None and t.is_floating_point() and t.dtype not in kept else t

    return [cast(place, t) for place, t in enumerate(tensors)]


def ntm(
    x: Tensor,
    controller: Tensor,
    w_heads: Tensor,
    b_heads: Tensor | None,
    w_out: Tensor,
    b_out: Tensor | None,
    h0: Tensor,
    c0: Tensor,
    memory0: Tensor,
    reads0: Tensor,
    weightings0: Tensor,
    lengths: Tensor | None = None,
    conventions: Conventions = GRAVES2014,
) -> tuple[Tensor, ...]:
    """Runs a Neural Turing Machine over a whole sequence.

    Axes: T ticks, B rows of the batch, I inputs, O outputs, H hidden units of each of L controller layers, N memory
    rows, M numbers of a row, R read heads, K heads (reads, then writes), P numbers that all heads take. All tensors are
    float32 or float64 and on one device; under autocast halves are made float32. Source: Graves, Wayne and Danihelka,
    "Neural Turing Machines", arXiv 1410.5401, 2014.

    Args:
        x: input (T,B,I).
        controller: its layers one after another, flat: of each the weight, whose columns are the layer's inputs (of the
            first: x, then what the heads read a tick ago) and, where it is an LSTM, its own h; then its bias. Rows: an
            LSTM's four gates in torch.nn's order, or H.
        w_heads, b_heads: what the heads take of the last layer's h, (P,H) and (P) or None: head by head key (M),
            strength, gate, shifts (2 * range + 1), sharpening, and for a write head erase (M) and add (M).
        w_out, b_out: the outputs, of that h and of what this tick's heads read, (O,H+R*M) and (O) or None.
        h0, c0: states of an LSTM controller before the first tick (L,B,H); (0,B,H) for a feed-forward one.
        memory0, reads0, weightings0: (B,N,M), (B,R,M), (B,K,N).
        lengths: ticks of each row, int64 (B,) on the CPU, 0 allowed. Past its end a row's state stays, its output is
            zero, and so are all gradients.
        conventions: the heads, and what the paper leaves open.

    Returns:
        `(y, h_n, c_n, memory_n, reads_n, weightings_n)`: logits (T,B,O), and the states after each row's last tick.

    Raises:
        RuntimeError: wrong rank, size, dtype or device.
    """
    tensors = (x, controller, w_heads, b_heads, w_out, b_out, h0, c0, memory0, reads0, weightings0)
    return machine(NTM, tensors, (lengths,), conventions)[:-1]


def ntm_step(
    parameters: Tensor, memory: Tensor, weightings: Tensor, conventions: Conventions = GRAVES2014
) -> tuple[Tensor, Tensor, Tensor]:
    """One tick of all heads of a Neural Turing Machine on a given memory, for controllers of one's own.

    Axes as in `ntm`.

    Args:
        parameters: what the heads take (B,P), in the order of `w_heads` there; before its activations, or, with
            `conventions.activated`, past them: strength > 0, gate in [0, 1], shifts that sum to 1, sharpening >= 1.
        memory, weightings: before the tick, (B,N,M) and (B,K,N).
        conventions: the heads, and what the paper leaves open; the controller is ignored.

    Returns:
        What is read (B,R,M), and memory and weightings after the tick.
    """
    return machine(NTM_STEP, (parameters, memory, weightings), (), conventions._replace(layers=0))[:-1]


def ntm_address(
    memory: Tensor,
    weighting: Tensor,
    key: Tensor,
    strength: Tensor,
    gate: Tensor,
    shifts: Tensor,
    sharpening: Tensor,
    conventions: Conventions = GRAVES2014,
) -> Tensor:
    """Where heads look: by content, by where they looked before, shifted and sharpened. Graves et al. 2014, eqs 5 to 9.

    Args:
        memory: (B,N,M).
        weighting: of the tick before, (B,K,N).
        key: (B,K,M).
        strength, gate, sharpening: (B,K), at least 0, in [0, 1], and at least 1.
        shifts: distributions over -range, ..., range, (B,K,2*range+1).
        conventions: guards, and the order of shifts; its heads are ignored.

    Returns:
        The new weighting (B,K,N).
    """
    columns = [part.unsqueeze(-1) if part.dim() == 2 else part for part in (key, strength, gate, shifts, sharpening)]
    c = conventions._replace(
        layers=0, read_heads=weighting.size(1), write_heads=0, shift_range=shifts.size(-1) // 2, activated=True
    )
    return machine(NTM_STEP, (torch.cat(columns, -1).flatten(1), memory, weighting), (), c)[2]


def ntm_read(memory: Tensor, weighting: Tensor) -> Tensor:
    """What heads of these weightings (B,K,N) read of a memory (B,N,M): (B,K,M). One product; eq. 2."""
    _check_devices(memory, weighting=weighting)
    return reference.ntm.read(memory, weighting)


def ntm_write(memory: Tensor, weighting: Tensor, erase: Tensor, add: Tensor) -> Tensor:
    """The memory (B,N,M) after heads of these weightings (B,K,N) erased (B,K,M), in [0, 1], and added (B,K,M).

    All erase before any adds; eqs 3 and 4. In plain torch: inside `ntm` and `ntm_step` it is fused.
    """
    _check_devices(memory, weighting=weighting, erase=erase, add=add)
    return reference.ntm.write(memory, weighting, erase, add)


def _check_devices(memory: Tensor, **others: Tensor) -> None:
    """Torch's own products take a tensor on meta beside others, and return memory that nobody wrote."""
    for name, t in others.items():
        if t.device != memory.device:
            raise RuntimeError(f"{name}: expected device {memory.device} as memory has, got {t.device}")


def machine(op: Machine, tensors: tuple, lengths: tuple, c: Conventions, keep: bool = False) -> tuple[Tensor, ...]:
    """All results of one of the two ops, what it saved last; `keep`: whether or not anybody differentiates."""
    x = tensors[0]
    if autocasts(x):
        halves = (torch.bfloat16, torch.float16)
        tensors = tuple(t.float() if t is not None and t.dtype in halves else t for t in tensors)
    if not has_kernel(x):
        warn_once(f"{op.name} runs in plain torch, tick by tick: this build has no kernel for device {x.device.type!r}")
        plain = reference.ntm.ntm if op is NTM else reference.ntm.step
        return *plain(*tensors, *lengths, c), x.new_empty(0)
    return op(*tensors, *lengths, *c.flat(), keep=keep)
