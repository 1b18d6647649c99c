"""Whom a row times: rnnkernels and its peers, each as a call without arguments over one ``Problem``.

Inference calls return ``[out]``; forward-and-backward calls return ``[out, grad_x, grad_w_ih, grad_w_hh, grad_b_ih,
grad_b_hh]`` for the loss sum(out * grad). Every contestant gets the same tensors and initial states.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

import rnnkernels as rk
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
    forward: Callable[[torch.Tensor], torch.Tensor], problem: Problem, weights: Sequence, backward: bool
) -> Call:
    """A call of ``forward`` on x, with the gradients of sum(out * grad) if asked for."""
    if not backward:
        return lambda: [forward(problem.x)]
    x = problem.x.clone().requires_grad_()
    grad = problem.grad

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
    module, weights = filled(cls(problem.case.I, problem.case.H), problem, "_l0")
    hx = hx_of(problem, [s.unsqueeze(0) for s in problem.states])
    return finish(lambda x: module(x, hx)[0], problem, weights, backward)


def of_cell(problem: Problem, cls: type, backward: bool) -> Call:
    module, weights = filled(cls(problem.case.I, problem.case.H), problem, "")
    hx = hx_of(problem, problem.states)
    tick = (lambda x: module(x[0], hx)[0]) if len(problem.states) > 1 else (lambda x: module(x[0], hx))
    return finish(lambda x: tick(x).unsqueeze(0), problem, weights, backward)


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

    return finish(forward, problem, weights, backward)


def of_op(problem: Problem, backward: bool) -> Call:
    """The raw ops, without modules and autograd: what the kernels alone take."""
    forward = getattr(torch.ops.rnnkernels, problem.cell).default
    x, weights, states = problem.x, problem.parameters, problem.states
    if not backward:
        return lambda: [forward(x, *weights, None, *states, None, False, False)[0]]
    back = getattr(torch.ops.rnnkernels, problem.cell + "_backward").default
    no_grads = [None] * len(states)

    def call() -> Sequence[torch.Tensor]:
        with torch.no_grad():
            out, *_, saved = forward(x, *weights, None, *states, None, False, True)
            grads = back(problem.grad, *no_grads, x, *weights, None, *states, out, saved, None, False, True, True)
        return [out, *grads[:5]]

    return call


def of_onnxruntime(problem: Problem, threads: int) -> Call:
    """A one-node ONNX graph; its gates stand in another order than torch's."""
    import onnxruntime as ort
    from onnx import TensorProto, helper, numpy_helper

    T, B, I, H = problem.case.T, problem.case.B, problem.case.I, problem.case.H  # noqa: E741
    kind, order, options = {
        "lstm": ("LSTM", [0, 3, 1, 2], {}),  # iofc from i, f, g, o
        "gru": ("GRU", [1, 0, 2], {"linear_before_reset": 1}),  # zrh from r, z, n
        "rnn_tanh": ("RNN", [0], {}),
    }[problem.cell]

    def reordered(weight: torch.Tensor) -> np.ndarray:
        return np.concatenate([weight.numpy().reshape(len(order), H, -1)[g] for g in order])

    w_ih, w_hh, b_ih, b_hh = map(reordered, problem.parameters)
    constants = {"W": w_ih[None], "R": w_hh[None], "B": np.concatenate([b_ih, b_hh]).reshape(1, -1)}
    state_names = ["initial_h", "initial_c"][: len(problem.states)]
    outputs = ["Y", "Y_h", "Y_c"][: 1 + len(problem.states)]
    node = helper.make_node(kind, ["X", "W", "R", "B", "", *state_names], outputs, hidden_size=H, **options)

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
    feeds = {"X": problem.x.numpy(), **{n: s.numpy()[None] for n, s in zip(state_names, problem.states, strict=True)}}
    return lambda: [session.run(None, feeds)[0][:, 0]]
