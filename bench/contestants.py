"""Whom a row times: rnnkernels and its peers, each as a call without arguments over one ``Problem``.

Inference calls return ``[out]``; forward-and-backward calls return ``[out, grad_x, grad_w_ih, grad_w_hh, grad_b_ih,
grad_b_hh]`` for the loss sum(out * grad). Every contestant gets the same tensors and initial states.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

import rnnkernels as rk
from rnnkernels import reference
from rnnkernels.ops import LAYERS
from rnnkernels.options import PLAIN
from rnnkernels.reference.cells import CELLS

from .cases import Problem

Call = Callable[[], Sequence]
NAMES = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
TORCH = {"lstm": (nn.LSTM, nn.LSTMCell), "gru": (nn.GRU, nn.GRUCell), "rnn_tanh": (nn.RNN, nn.RNNCell)}


@dataclass
class Contestant:
    name: str
    call: Call
    prepare_s: float = 0.0  # seconds before the first result: compilation, session creation
    check: Call | None = None  # where it draws random numbers: the same with given ones, to be checked


def makers(problem: Problem, backward: bool, threads: int) -> dict[str, Callable[[], Call]]:
    """Everyone who can run this row, the peers first and rnnkernels last; nothing is built yet."""
    cell, one_tick = problem.cell, problem.case.T == 1
    every: dict[str, Callable[[], Call]] = {}
    if cell in TORCH:
        layer, tick = TORCH[cell]
        every["torch"] = lambda: of_module(problem, layer, backward)
        if one_tick:
            every["torch cell"] = lambda: of_cell(problem, tick, backward)
        if not backward:
            every["onnxruntime"] = lambda: of_onnxruntime(problem, threads)
    else:
        every["eager loop"] = lambda: of_loop(problem, reference_tick(cell), backward)
    every["compiled loop"] = lambda: of_loop(problem, compiled_tick(cell), backward)
    every["op"] = lambda: of_op(problem, backward)
    every["rnnkernels"] = lambda: of_module(problem, our_class(cell), backward)
    if one_tick:
        every["rnnkernels cell"] = lambda: of_cell(problem, our_class(cell, "Cell"), backward)
    return every


def contestants(problem: Problem, backward: bool, threads: int, skip: Collection[str] = ()) -> list[Contestant]:
    """Build the row's contestants, one call each, so that compiling is over before the timing."""
    built = []
    for name, make in makers(problem, backward, threads).items():
        if name in skip:
            continue
        if name == "compiled loop":
            warm_compiler()
        begin = time.perf_counter()
        call = make()
        with torch.inference_mode(not backward):
            call()
        built.append(Contestant(name, call, time.perf_counter() - begin))
    return built


@cache
def warm_compiler() -> None:
    """Load the compiler once, or the first row would report its imports as compile time."""
    torch.compile(lambda x: x + 1)(torch.ones(8))


def finish(
    forward: Callable[[torch.Tensor], torch.Tensor],
    x: torch.Tensor,
    grad: torch.Tensor,
    weights: Sequence[torch.Tensor],
    backward: bool,
) -> Call:
    """A call of ``forward`` on x, with the gradients of sum(out * grad) by x and the weights if asked for."""
    if not backward:
        return lambda: [forward(x)]
    x = x.clone().requires_grad_()

    def call() -> Sequence[torch.Tensor]:
        out = forward(x)
        return [out, *torch.autograd.grad(out, [x, *weights], grad)]

    return call


def our_class(cell: str, suffix: str = "") -> type:
    """rnnkernels' module of a cell: RNN for rnn_tanh, else the public name that reads like the cell's."""
    wanted = ("rnn" if cell == "rnn_tanh" else cell.replace("_", "")) + suffix.lower()
    return next(getattr(rk, name) for name in dir(rk) if name.lower() == wanted)


def hx_of(problem: Problem, states: Sequence[torch.Tensor]):
    return tuple(states) if len(states) > 1 else states[0]


def filled(module: nn.Module, problem: Problem, suffix: str) -> tuple[nn.Module, list[nn.Parameter]]:
    parameters = [getattr(module, name + suffix) for name in NAMES]
    with torch.no_grad():
        for parameter, weight in zip(parameters, problem.parameters, strict=True):
            parameter.copy_(weight)
    return module, parameters


def of_module(problem: Problem, cls: type, backward: bool) -> Call:
    layer = cls(problem.case.I, problem.case.H, device=problem.x.device, dtype=problem.x.dtype)
    module, weights = filled(layer, problem, "_l0")
    hx = hx_of(problem, [s.unsqueeze(0) for s in problem.states])
    return finish(lambda x: module(x, hx)[0], problem.x, problem.grad, weights, backward)


def of_cell(problem: Problem, cls: type, backward: bool) -> Call:
    module, weights = filled(cls(problem.case.I, problem.case.H), problem, "")
    hx = hx_of(problem, problem.states)
    tick = (lambda x: module(x[0], hx)[0]) if len(problem.states) > 1 else (lambda x: module(x[0], hx))
    return finish(lambda x: tick(x).unsqueeze(0), problem.x, problem.grad, weights, backward)


def reference_tick(cell: str) -> Callable:
    """One tick of plain torch: (projected x (B, G*H), states, w_hh, b_hh) -> states."""
    step = CELLS[cell]

    def tick(x, states, w_hh, b_hh):
        H = w_hh.shape[1]

        def rec(operand, first=0, last=None):
            rows = slice(first * H, None if last is None else last * H)
            return F.linear(operand, w_hh[rows], b_hh[rows])

        after = step(x, rec, *states)
        return after if isinstance(after, tuple) else (after,)

    return tick


def compiled_tick(cell: str) -> Callable:
    """The same tick under torch.compile: its compile time does not grow with T."""
    torch._dynamo.reset()  # one code object, many shapes: each row compiles its own
    return torch.compile(reference_tick(cell), fullgraph=True, dynamic=False)


def of_loop(problem: Problem, tick: Callable, backward: bool) -> Call:
    weights = [w.clone().requires_grad_(backward) for w in problem.parameters]
    w_ih, w_hh, b_ih, b_hh = weights

    def forward(x: torch.Tensor) -> torch.Tensor:
        states, outs = tuple(problem.states), []
        for projected in F.linear(x, w_ih, b_ih).unbind(0):
            states = tick(projected, states, w_hh, b_hh)
            outs.append(states[0])
        return torch.stack(outs)

    return finish(forward, problem.x, problem.grad, weights, backward)


def of_op(problem: Problem, backward: bool) -> Call:
    """The raw ops, without modules and autograd: what the kernels alone take."""
    layer = LAYERS[problem.cell]
    x, states = problem.x, problem.states
    tensors = [x, *problem.parameters, None, None, *states, *[None] * layer.states]
    config = [None, False, None, None, *PLAIN.flat()]
    if not backward:
        return lambda: [layer.op(*tensors, *config, False, False)[0]]
    grads = [problem.grad, *[None] * (2 * layer.states - 1)]

    def call() -> Sequence[torch.Tensor]:
        with torch.no_grad():
            out, *_, saved = layer.op(*tensors, *config, True, False)
            return [out, *layer.op_backward(*grads, *tensors, out, saved, *config, True, True)[:5]]

    return call


def of_layer(
    module: nn.Module, x: torch.Tensor | PackedSequence, hx: Any, grad: torch.Tensor, backward: bool, **keywords: Any
) -> Call:
    """Any layer of rnnkernels by its own parameters; grad as out, or as its frames where x is packed."""
    weights = list(module.parameters())
    if isinstance(x, PackedSequence):
        return finish(lambda f: module(x._replace(data=f), hx, **keywords)[0].data, x.data, grad, weights, backward)
    return finish(lambda x: module(x, hx, **keywords)[0], x, grad, weights, backward)


def by_reference(
    dtype: torch.dtype,
    module: nn.Module,
    x: torch.Tensor | PackedSequence,
    hx: Any,
    grad: torch.Tensor,
    backward: bool,
    **keywords: Any,
) -> list[torch.Tensor]:
    """What ``of_layer`` returns, by the plain torch reference instead of the kernels, in another precision."""
    twin = copy.deepcopy(module).to(dtype)
    hx = tuple(s.to(dtype) for s in hx) if isinstance(hx, tuple) else hx.to(dtype)
    call = of_layer(twin, x.to(dtype), hx, grad.to(dtype), backward, **keywords)
    with mock.patch.object(rk.functional, "layer", reference.layer), torch.set_grad_enabled(backward):
        return [t.detach() for t in call()]


def of_onnxruntime(problem: Problem, threads: int) -> Call:
    """Its gates stand in another order than torch's."""
    kind, order, options = {
        "lstm": ("LSTM", [0, 3, 1, 2], {}),  # iofc from i, f, g, o
        "gru": ("GRU", [1, 0, 2], {"linear_before_reset": 1}),  # zrh from r, z, n
        "rnn_tanh": ("RNN", [0], {}),
    }[problem.cell]
    return onnx_node(kind, order, options, problem.x, problem.parameters, problem.states, threads)


def onnx_node(
    kind: str,
    order: Sequence[int | None],
    options: dict[str, Any],
    x: torch.Tensor,
    weights: Sequence[torch.Tensor],
    states: Sequence[torch.Tensor],
    threads: int,
    peepholes: torch.Tensor | None = None,
) -> Call:
    """A graph of one recurrent node.

    Args:
        kind, options: of the node.
        order: which of our gates each gate of the node is, None for one that is not read.
        weights: w_ih (G*H,I), w_hh (G*H,H), b_ih (G*H), b_hh (G*H).
        states: each (B,H).
        peepholes: (3,H) in ONNX's order i, o, f.
    """
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    (T, B, I), H = x.shape, weights[1].size(1)

    def reordered(weight: torch.Tensor) -> np.ndarray:
        gates = weight.numpy().reshape(-1, H, *weight.shape[1:])
        return np.concatenate([np.zeros_like(gates[0]) if g is None else gates[g] for g in order])

    w_ih, w_hh, b_ih, b_hh = map(reordered, weights)
    constants = {"W": w_ih[None], "R": w_hh[None], "B": np.concatenate([b_ih, b_hh]).reshape(1, -1)}
    state_names = ["initial_h", "initial_c"][: len(states)]
    inputs = ["X", "W", "R", "B", "", *state_names]
    if peepholes is not None:
        constants["P"] = peepholes.numpy().reshape(1, -1)
        inputs.append("P")
    outputs = ["Y", "Y_h", "Y_c"][: 1 + len(states)]
    node = helper.make_node(kind, inputs, outputs, hidden_size=H, **options)

    def info(name: str, *shape: int):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    graph = helper.make_graph(
        [node],
        "layer",
        [info("X", T, B, I), *(info(name, 1, B, H) for name in state_names)],
        [info("Y", T, 1, B, H), *(info(name, 1, B, H) for name in outputs[1:])],
        [numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = threads  # spinning is left at its default
    settings.inter_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    feeds = {"X": x.numpy(), **{n: s.numpy()[None] for n, s in zip(state_names, states, strict=True)}}
    return lambda: [session.run(None, feeds)[0][:, 0]]
