"""Variants torch.nn has not, each beside the loop a user would write instead (loops.py), and the tensors of a row."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

import rnnkernels as rk
from rnnkernels.reference.random import mask
from rnnkernels.testing import Expected
from rnnkernels.testing import expected as expected_of

from . import loops
from .cases import VARIANTS as GRID
from .cases import Case
from .check import SAMPLES
from .contestants import Call, Contestant, by_reference, finish, of_layer, onnx_node, warm_compiler

SEED = 1997
MODES = ("inference", "training")
ZONEOUT = {"zoneout": 0.05, "zoneout_cell": 0.5}  # Krueger et al. 2016, on Penn Treebank by characters
RECURRENT = 0.25
BLOCK = 2  # cells of a block, as in most networks of the paper


@dataclass(frozen=True)
class Masks:
    """What the loop of a layer with random masks is given: fresh ones, or those the layer draws from a seed."""

    shape: Callable[[int, int, int], tuple[int, ...]]  # of T, B, H
    rates: dict[str, float]  # by kind of mask
    boolean: bool  # 1 where the old value is kept, or what h is multiplied with

    def draw(self, T: int, B: int, H: int) -> list[Tensor]:
        shape = self.shape(T, B, H)
        if self.boolean:
            return [torch.empty(shape, dtype=torch.bool).bernoulli_(p) for p in self.rates.values()]
        return [torch.empty(shape).bernoulli_(1 - p).div_(1 - p) for p in self.rates.values()]

    def given(self, T: int, B: int, H: int) -> list[Tensor]:
        seed, shape = torch.tensor(SEED), self.shape(T, B, H)
        made = [mask(kind, p, seed, shape, dtype=torch.float32) for kind, p in self.rates.items()]
        return [m.bool() for m in made] if self.boolean else made


@dataclass(frozen=True)
class Variant:
    """A layer, ``make(I, H)``, and what it is measured against."""

    make: Callable[[int, int], nn.Module]
    loop: loops.Loop
    states: str = "h"  # the module's: h, c, and g for the gates of blocks
    modes: tuple[str, ...] = MODES
    cases: tuple[Case, ...] = GRID
    masks: Masks | None = None
    onnx: tuple[str, Sequence[int | None], dict[str, Any]] | None = None  # node, order of gates, attributes


def _blocks(gradient: str) -> Callable[[int, int], nn.Module]:
    return lambda I, H: rk.LSTM1997(I, H, bias="all", block_size=BLOCK, gradient=gradient)


ONE_CASE = (GRID[2],)
VARIANTS = {
    "PeepholeLSTM": Variant(rk.PeepholeLSTM, loops.PEEPHOLE, "hc", onnx=("LSTM", [0, 3, 1, 2], {})),
    "CoupledLSTM": Variant(
        rk.CoupledLSTM, loops.COUPLED, "hc", onnx=("LSTM", [0, 2, None, 1], {"input_forget": 1})
    ),  # iofc from i, g, o
    "LayerNormLSTM": Variant(rk.LayerNormLSTM, loops.LAYERNORM_LSTM, "hc"),
    "LayerNormLSTM(norm='carry')": Variant(
        lambda I, H: rk.LayerNormLSTM(I, H, norm="carry"), loops.LAYERNORM_CARRY, "hc", cases=ONE_CASE
    ),
    "LayerNormLSTM(norm='gate')": Variant(
        lambda I, H: rk.LayerNormLSTM(I, H, norm="gate"), loops.LAYERNORM_GATE, "hc", cases=ONE_CASE
    ),
    "LayerNormGRU": Variant(rk.LayerNormGRU, loops.LAYERNORM_GRU),
    "GRU(reset_after=False)": Variant(
        lambda I, H: rk.GRU(I, H, reset_after=False),
        loops.GRU_BEFORE,
        onnx=("GRU", [1, 0, 2], {"linear_before_reset": 0}),
    ),
    "GRU1": Variant(rk.GRU1, loops.GRU1),
    "GRU2": Variant(rk.GRU2, loops.GRU2),
    "GRU3": Variant(rk.GRU3, loops.GRU3),
    "IndRNN": Variant(rk.IndRNN, loops.IND_RNN),
    "LSTM1997": Variant(_blocks("full"), loops.LSTM1997, "hcg"),
    "LSTM1997(gradient='truncated')": Variant(
        _blocks("truncated"), loops.LSTM1997_TRUNCATED, "hcg", modes=("training",)
    ),
    "LSTM with zoneout": Variant(
        lambda I, H: rk.LSTM(I, H, **ZONEOUT),
        loops.ZONEOUT,
        "hc",
        modes=("training",),
        masks=Masks(lambda T, B, H: (T, B, H), ZONEOUT, True),
    ),
    "LSTM with recurrent dropout": Variant(
        lambda I, H: rk.LSTM(I, H, recurrent_dropout=RECURRENT),
        loops.DROPOUT,
        "hc",
        modes=("training",),
        masks=Masks(lambda T, B, H: (B, H), {"recurrent": RECURRENT}, False),
    ),
}


def made(make: Callable[[int, int], nn.Module], I: int, H: int) -> nn.Module:
    """A layer of repeatable weights. Gains of normalisations are about 1/4, their shifts not 0: from 1/2 on, 100 ticks
    are near enough to chaos for the error of a gradient to be a matter of luck, plain torch's as much as ours."""
    torch.manual_seed(0)
    module = make(I, H)
    with torch.no_grad():
        for name, p in module.named_parameters():
            if name.startswith("ln_"):
                p.mul_(0.25).add_(torch.randn(p.shape), alpha=0.05)
    return module


def drawn(case: Case, states: str) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
    """x (T,B,I), states as a module takes them (1,B,H), and the gradient of the output (T,B,H)."""
    random = torch.Generator().manual_seed(1)

    def uniform(*shape: int) -> Tensor:
        return torch.empty(shape).uniform_(-1, 1, generator=random)

    T, B, H = case.T, case.B, case.H
    hx = [uniform(1, B, 2 * H // BLOCK).abs() if state == "g" else uniform(1, B, H) for state in states]
    return uniform(T, B, case.I), tuple(hx), uniform(T, B, H)


class Trial:
    """One variant at one case: what every contestant is given."""

    def __init__(self, name: str, case: Case) -> None:
        self.variant, self.case = VARIANTS[name], case
        self.module = made(self.variant.make, case.I, case.H)
        self.x, self.hx, self.grad = drawn(case, self.variant.states)
        self.parameters = [p.detach().clone() for p in self.module.parameters()]
        self.names = ["out", "grad_x", *(f"grad_{name}" for name, _ in self.module.named_parameters())]

    @property
    def _arguments(self) -> tuple[Any, ...]:
        return self.module, self.x, self.hx if len(self.hx) > 1 else self.hx[0], self.grad

    def expected(self) -> list[Expected]:
        """What out, and its gradients, are held against."""
        return expected_of(lambda: by_reference(torch.float64, *self._arguments, True, **self._seed), SAMPLES)

    @property
    def _seed(self) -> dict[str, int]:
        return {"seed": SEED} if self.variant.masks else {}

    def makers(self, backward: bool, threads: int) -> dict[str, Callable[[], Contestant]]:
        """Everyone who can run the row, rnnkernels last; nothing is built yet."""
        every: dict[str, Callable[[], Contestant]] = {
            "eager loop": lambda: self._of_loop("eager loop", loops.looped(*self.variant.loop), backward),
            "TorchScript": lambda: self._scripted(backward),
            "compiled loop": lambda: self._compiled(backward),
        }
        if self.variant.onnx and not backward:
            every["onnxruntime"] = lambda: Contestant("onnxruntime", self._of_onnxruntime(threads))
        every["rnnkernels"] = lambda: self._of_ours(backward)
        return every

    def contestants(self, backward: bool, threads: int, skip: Collection[str] = ()) -> list[Contestant]:
        built = []
        for name, make in self.makers(backward, threads).items():
            if name not in skip:
                begin = time.perf_counter()
                entrant = make()
                entrant.prepare_s = entrant.prepare_s or time.perf_counter() - begin
                built.append(entrant)
        return built

    def _of_ours(self, backward: bool) -> Contestant:
        self.module.train(backward)
        call = of_layer(*self._arguments, backward)
        return Contestant("rnnkernels", call, check=of_layer(*self._arguments, backward, **self._seed))

    def _scripted(self, backward: bool) -> Contestant:
        return self._warmed("TorchScript", torch.jit.script(loops.looped(*self.variant.loop)), backward, 3)

    def _compiled(self, backward: bool) -> Contestant:
        """One tick under torch.compile: its compile time does not grow with T."""
        warm_compiler()
        torch._dynamo.reset()  # one code object, many shapes: each row compiles its own
        prepare, tick = self.variant.loop
        loop = loops.looped(prepare, torch.compile(tick, fullgraph=True, dynamic=False))
        return self._warmed("compiled loop", loop, backward, 1)

    def _warmed(self, name: str, loop: Callable, backward: bool, times: int) -> Contestant:
        """After calls of a few ticks, in which compilers do all of their work."""
        begin = time.perf_counter()
        few = self._of_loop(name, loop, backward, ticks=4)
        with torch.inference_mode(not backward):
            for _ in range(times):
                few.call()
        seconds = time.perf_counter() - begin
        entrant = self._of_loop(name, loop, backward)
        entrant.prepare_s = seconds
        return entrant

    def _of_loop(self, name: str, loop: Callable, backward: bool, ticks: int | None = None) -> Contestant:
        T, B, H = self.case.T if ticks is None else ticks, self.case.B, self.case.H
        x, grad = self.x[:T], self.grad[:T]
        weights = [w.clone().requires_grad_(backward) for w in self.parameters]
        # Gradients by the states are not asked for, but a tick's graph is then the first tick's too.
        states = [s[0].clone().requires_grad_(backward) for s in self._loop_states()]
        masks = self.variant.masks

        def call_with(draw: Callable[[], list[Tensor]]) -> Call:
            return finish(lambda x: loop(x, weights, draw(), states), x, grad, weights, backward)

        if masks is None:
            return Contestant(name, call_with(list))
        given = masks.given(T, B, H)
        return Contestant(name, call_with(lambda: masks.draw(T, B, H)), check=call_with(lambda: given))

    def _loop_states(self) -> list[Tensor]:
        if self.variant.states != "hcg":
            return list(self.hx)
        h, c, gates = self.hx
        return [h, c.unflatten(-1, (-1, BLOCK)), *gates.chunk(2, -1)]

    def _of_onnxruntime(self, threads: int) -> Call:
        node, order, options = self.variant.onnx
        *weights, peepholes = self.parameters if len(self.parameters) == 5 else [*self.parameters, None]
        if peepholes is not None:
            peepholes = peepholes.view(3, -1)[[0, 2, 1]]  # i, o, f
        states = [s[0] for s in self.hx]
        return onnx_node(node, order, options, self.x, weights, states, threads, peepholes)


@lru_cache(maxsize=1)  # both modes of a case stand together
def expected(name: str, case: Case) -> tuple[Trial, list[Expected]]:
    """A row's tensors, and what the output and gradients are held against."""
    trial = Trial(name, case)
    return trial, trial.expected()
