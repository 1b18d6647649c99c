"""The Neural Turing Machine as a module, and the conventions of those who built one."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .. import _C, functional
from ..functional import autocasts
from ..ops import NTM as OP
from ..options import CONTROLLERS, GUARDS, ORDERS, Conventions
from ..reference.ntm import Heads, split_heads, write
from .checks import choice, integer, not_negative, number_or_none, row_lengths, with_shape
from .settings import Settings

__all__ = ["NTM", "NTMState", "NTMTrace"]

# What an argument of `NTM` is where it is not given; docs/ntm.md says why. The first is complete.
PRESETS: dict[str, dict[str, Any]] = {
    "graves2014": {
        "order": "read_first",
        "key_activation": "tanh",
        "add_activation": "tanh",
        "similarity_guard": "sum",
        "similarity_eps": 1e-8,
        "sharpen_eps": 0.0,
        "reversed_shift": False,
        "head_clip": 0.0,
        "output_clip": 0.0,
        "memory_init": "learned",
        "reads_init": "learned",
        "weightings_init": "learned",
        "controller_init": "learned",
        "squash_initial": False,
        "forget_bias": None,
    },
    "collier2018": {
        "head_clip": 20.0,
        "output_clip": 20.0,
        "memory_init": "constant",
        "controller_init": "zeros",
        "squash_initial": True,
        "forget_bias": 1.0,
    },
    "pytorch-ntm": {
        "order": "interleaved",
        "key_activation": "linear",
        "add_activation": "linear",
        "similarity_guard": "floor",
        "sharpen_eps": 1e-16,
        "reversed_shift": True,
        "memory_init": "random",
        "reads_init": "random",
        "weightings_init": "zeros",
    },
}
CONSTANT = 1e-6  # of memory_init="constant": Collier and Beel 2018


class NTMState(NamedTuple):
    """What a machine carries from one tick to the next.

    controller: (h, c), each (L,B,H), of an LSTM controller; empty for a feed-forward one.
    memory: (B,N,M).
    reads: what the heads last read, (B,R,M).
    weightings: of the read heads, then the write heads, (B,K,N).
    """

    controller: tuple[Tensor, ...]
    memory: Tensor
    reads: Tensor
    weightings: Tensor

    def detach(self) -> "NTMState":
        """The same, cut from the graph: for a sequence that is learnt in pieces."""
        return NTMState(tuple(t.detach() for t in self.controller), *(t.detach() for t in self[1:]))


class NTMTrace(NamedTuple):
    """What the heads did, tick by tick, without gradient; zero past a row's end.

    read_weightings, write_weightings: (T,B,R,N) and (T,B,W,N).
    memory: after each tick, (T,B,N,M).
    heads: what every head was given, past its activation, each (T,B,K,·), erase and add (T,B,W,M).
    """

    read_weightings: Tensor
    write_weightings: Tensor
    memory: Tensor
    heads: Heads

    @property
    def gates(self) -> Tensor:
        """How much each head looked by content rather than from where it was, (T,B,K)."""
        return self.heads.gate.squeeze(-1)


class NTM(Settings):
    """Neural Turing Machine (Graves, Wayne and Danihelka 2014): a controller with a memory that it reads and writes.

    Axes: T ticks, B rows of the batch, I inputs, O outputs, H hidden units of each of L controller layers, N memory
    rows, M numbers of a row, R read heads, W write heads, K = R + W, P numbers that all heads take.

    Args:
        input_size, output_size: I and O.
        controller: "lstm", or "feedforward": tanh layers.
        controller_size, controller_layers: H and L.
        read_heads, write_heads: R and W; at least one of all.
        memory_rows, memory_width: N and M.
        shift_range: a head may move its weighting by up to so many rows, either way.
        preset: "graves2014", "collier2018" or "pytorch-ntm": what every argument below is where it is not given.
        batch_first: x and y are (B,T,·); states never are.
        recompute: whether forward saves only O(sqrt(T)) memories, from which backward computes again what it needs of
            every time step.
        order: when heads look at the memory: "read_first", "write_first" or "interleaved" (see
            `rnnkernels.options.Conventions`, as for the next seven).
        key_activation, add_activation: "tanh" or "linear".
        similarity_guard, similarity_eps, sharpen_eps, reversed_shift: guards of the addressing, order of the shifts.
        head_clip, output_clip: bounds of what the heads take and of the logits; 0: none.
        memory_init: memory before the first tick: "learned", "constant" (1e-6) or "random" (drawn once).
        reads_init, weightings_init, controller_init: likewise of what was read before ("learned" or "random"), of the
            weightings ("learned", by a softmax, or "zeros"), and of an LSTM controller's state ("learned" or "zeros").
        squash_initial: tanh of the initial memory and reads.
        forget_bias: initial bias of the forget gates; None: drawn as all others.

    Attributes:
        weight_ih_l{k}, weight_hh_l{k}, bias_ih_l{k}, bias_hh_l{k}: the controller's layers, as torch.nn.LSTM has them,
            weight_ih_l0 (4*H,I+R*M): x first; of a feed-forward controller weight_ih_l{k} and bias_ih_l{k} of H rows.
        weight_heads, bias_heads: (P,H) and (P): read heads, then write heads, each key (M), strength, gate, shifts
            (2*shift_range+1), sharpening; for a write head also erase (M) and add (M).
        weight_out, bias_out: (O,H+R*M) and (O).
        initial_h, initial_c: (L,H), of an LSTM controller.
        initial_memory, initial_reads: (N,M) and (R,M).
        initial_weightings: (K,N), before their softmax where they are learned. What is not learned is a buffer.
    """

    checks = {
        **dict.fromkeys(("output_size", "controller_size", "controller_layers"), integer(1)),
        **dict.fromkeys(("memory_rows", "memory_width"), integer(1)),
        **dict.fromkeys(("input_size", "read_heads", "write_heads", "shift_range"), integer(0)),
        "controller": choice(*CONTROLLERS),
        "preset": choice(*PRESETS),
        "recompute": choice(False, True),
        "order": choice(*ORDERS),
        "key_activation": choice("tanh", "linear"),
        "add_activation": choice("tanh", "linear"),
        "similarity_guard": choice(*GUARDS),
        **dict.fromkeys(("similarity_eps", "sharpen_eps", "head_clip", "output_clip"), not_negative),
        "reversed_shift": choice(False, True),
        "memory_init": choice("learned", "constant", "random"),
        "reads_init": choice("learned", "random"),
        "weightings_init": choice("learned", "zeros"),
        "controller_init": choice("learned", "zeros"),
        "squash_initial": choice(False, True),
        "forget_bias": number_or_none,
    }
    fixed = frozenset({
        *("input_size", "output_size", "controller", "controller_size", "controller_layers", "read_heads"),
        *("write_heads", "memory_rows", "memory_width", "shift_range", "preset"),
        *("memory_init", "reads_init", "weightings_init", "controller_init"),
    })  # fmt: skip

    def __init__(
        self,
        input_size: int,
        output_size: int,
        controller: str = "lstm",
        controller_size: int = 100,
        controller_layers: int = 1,
        read_heads: int = 1,
        write_heads: int = 1,
        memory_rows: int = 128,
        memory_width: int = 20,
        shift_range: int = 1,
        preset: str = "graves2014",
        batch_first: bool = False,
        recompute: bool = False,
        device: Any = None,
        dtype: torch.dtype | None = None,
        **conventions: Any,
    ) -> None:
        super().__init__()
        sizes = {"input_size": input_size, "output_size": output_size, "controller_size": controller_size,
                 "controller_layers": controller_layers, "memory_rows": memory_rows, "memory_width": memory_width,
                 "read_heads": read_heads, "write_heads": write_heads, "shift_range": shift_range}  # fmt: skip
        for name, value in sizes.items():
            setattr(self, name, value)
        if read_heads + write_heads == 0:
            raise ValueError("read_heads, write_heads: expected at least one head, got none")
        self.controller, self.preset, self.recompute = controller, preset, recompute
        self.batch_first = batch_first
        chosen = {**PRESETS["graves2014"], **PRESETS[preset], **conventions}
        if unknown := set(chosen) - set(PRESETS["graves2014"]):
            raise TypeError(f"NTM: expected no argument {', '.join(sorted(unknown))}")
        for name, value in chosen.items():
            setattr(self, name, value)
        self._make({"device": device, "dtype": dtype})
        self.reset_parameters()

    @property
    def _is_built(self) -> bool:
        return "weight_out" in self._parameters

    @property
    def conventions(self) -> Conventions:
        """What the ops are told; attributes changed later take effect here."""
        own = {name: getattr(self, name) for name in Conventions._fields if name in PRESETS["graves2014"]}
        return Conventions(
            self.controller,
            self.controller_layers,
            self.read_heads,
            self.write_heads,
            self.shift_range,
            **own,
            recompute=self.recompute,
        )

    def _make(self, where: dict[str, Any]) -> None:
        c, H, M = self.conventions, self.controller_size, self.memory_width
        rows = (4 if c.recurrent else 1) * H
        for k in range(self.controller_layers):
            inputs = H if k else self.input_size + self.read_heads * M
            shapes = {"weight_ih": (rows, inputs), "weight_hh": (rows, H), "bias_ih": (rows,), "bias_hh": (rows,)}
            for name, shape in shapes.items():
                if c.recurrent or not name.endswith("hh"):
                    self.register_parameter(f"{name}_l{k}", nn.Parameter(torch.empty(shape, **where)))
        P = c.parameters(M)
        self.weight_heads = nn.Parameter(torch.empty(P, H, **where))
        self.bias_heads = nn.Parameter(torch.empty(P, **where))
        self.weight_out = nn.Parameter(torch.empty(self.output_size, H + self.read_heads * M, **where))
        self.bias_out = nn.Parameter(torch.empty(self.output_size, **where))
        states = [(name, self.controller_init, (self.controller_layers, H)) for name in ("initial_h", "initial_c")]
        for name, learned, shape in (
            *(states if c.recurrent else ()),
            ("initial_memory", self.memory_init, (self.memory_rows, M)),
            ("initial_reads", self.reads_init, (self.read_heads, M)),
            ("initial_weightings", self.weightings_init, (c.heads, self.memory_rows)),
        ):
            values = torch.empty(shape, **where)
            if learned == "learned":
                self.register_parameter(name, nn.Parameter(values))
            else:
                self.register_buffer(name, values)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws everything anew: controller and outputs as torch.nn does, the rest as docs/ntm.md says."""
        bound = self.controller_size**-0.5
        for name, parameter in self.named_parameters():
            if not name.startswith("initial"):
                nn.init.uniform_(parameter, -bound, bound)
        nn.init.uniform_(self.weight_out, -(self.weight_out.size(1) ** -0.5), self.weight_out.size(1) ** -0.5)
        if self.controller == "lstm":
            self.initial_h.zero_()
            self.initial_c.zero_()
            H = self.controller_size
            for k in range(self.controller_layers if self.forget_bias is not None else 0):
                getattr(self, f"bias_ih_l{k}")[H : 2 * H] = self.forget_bias
                getattr(self, f"bias_hh_l{k}")[H : 2 * H] = 0.0
        memory_bound = (self.memory_rows + self.memory_width) ** -0.5
        nn.init.uniform_(self.initial_reads, -memory_bound, memory_bound)
        self.initial_weightings.zero_()
        if self.weightings_init == "learned":
            nn.init.normal_(self.initial_weightings)
        if self.memory_init == "constant" or self.memory_init == "learned" and not self.squash_initial:
            self.initial_memory.fill_(CONSTANT)
        elif self.squash_initial:
            nn.init.normal_(self.initial_memory, std=0.5)
        else:
            nn.init.uniform_(self.initial_memory, -memory_bound, memory_bound)

    def initial_state(self, batch: int) -> NTMState:
        """The state before the first tick, of `batch` rows."""

        def rows(t: Tensor, axis: int = 0) -> Tensor:
            return t.unsqueeze(axis).expand(*t.shape[:axis], batch, *t.shape[axis:])

        memory, reads, weightings = self.initial_memory, self.initial_reads, self.initial_weightings
        if self.squash_initial:
            memory, reads = memory.tanh(), reads.tanh()
        if self.weightings_init == "learned":
            weightings = weightings.softmax(-1)
        controller = (rows(self.initial_h, 1), rows(self.initial_c, 1)) if self.controller == "lstm" else ()
        return NTMState(controller, rows(memory), rows(reads), rows(weightings))

    def _controller(self) -> Tensor:
        parts = []
        for k in range(self.controller_layers):
            weight, bias = getattr(self, f"weight_ih_l{k}"), getattr(self, f"bias_ih_l{k}")
            if self.controller == "lstm":
                weight = torch.cat((weight, getattr(self, f"weight_hh_l{k}")), 1)
                bias = bias + getattr(self, f"bias_hh_l{k}")
            parts += [weight.flatten(), bias]
        return torch.cat(parts)

    def forward(
        self, x: Tensor, state: NTMState | None = None, lengths: Any = None, return_trace: bool = False
    ) -> tuple[Any, ...]:
        """Runs over a sequence.

        Args:
            x: (T,B,I), with `batch_first` (B,T,I), or one sequence (T,I).
            state: to go on from; None: the initial state. One sequence's state has a batch of 1.
            lengths: ticks of each row, (B,), in any order, 0 allowed. Past its end a row's state stays, and its output
                is zero.
            return_trace: also return what the heads did. Not while compiled, nor with recompute=True.

        Returns:
            `(y, state)`, or `(y, state, trace)`: logits laid out as x, with O in the last dimension, the state after
            each row's last tick, and an `NTMTrace`.

        Raises:
            ValueError: x of wrong rank, or of another dtype than the weights outside autocast; wrong lengths.
            RuntimeError: wrong number of features, no tick, wrong shape, dtype or device of the state.
        """
        if x.dim() not in (2, 3):
            raise ValueError(f"input: expected 2 or 3 dimensions, got {x.dim()}")
        if x.dtype != self.weight_out.dtype and not autocasts(x):
            raise ValueError(f"input: expected {self.weight_out.dtype}, the dtype of the weights, got {x.dtype}")
        if x.size(-1) != self.input_size:
            raise RuntimeError(f"input: expected {self.input_size} features in the last dimension, got {x.size(-1)}")
        single = x.dim() == 2
        if single:
            x = x.unsqueeze(1)
        elif self.batch_first:
            x = x.transpose(0, 1)
        if x.size(0) == 0:
            raise RuntimeError("input: expected at least one tick, got a sequence of length 0")
        if lengths is not None:
            if single:
                raise ValueError("lengths: expected none for one sequence, which ends where it ends")
            lengths = row_lengths("lengths", lengths, x.size(1))
        if state is None:
            state = self.initial_state(x.size(1))
        elif not isinstance(state, NTMState):
            raise RuntimeError(f"state: expected an NTMState, as forward returns, got {type(state).__name__}")
        h, c = state.controller if self.controller == "lstm" else [x.new_empty(0, x.size(1), self.controller_size)] * 2
        conventions = self.conventions
        tensors = (x, self._controller(), self.weight_heads, self.bias_heads, self.weight_out, self.bias_out)
        tensors += (h, c, state.memory, state.reads, state.weightings)
        if return_trace and (conventions.recompute or torch.compiler.is_compiling() or not functional.has_kernel(x)):
            raise RuntimeError("return_trace: expected recompute=False, a device with kernels, no torch.compile")
        try:
            *results, saved = functional.machine(OP, tensors, (lengths,), conventions, keep=return_trace)
        except RuntimeError as error:
            self._name_parameter(error)
            raise
        y, h, c, *after = results
        after = NTMState((h, c) if self.controller == "lstm" else (), *after)
        if single:
            y = with_shape(y, (y.size(0), y.size(2)))
        elif self.batch_first:
            y = y.transpose(0, 1)
        if not return_trace:
            return y, after
        return y, after, self._trace(saved.detach(), x, lengths, state.memory.detach(), single)

    def _trace(self, saved: Tensor, x: Tensor, lengths: Tensor | None, memory: Tensor, single: bool) -> NTMTrace:
        """Takes apart what the op saved of every frame."""
        (T, B), c, (N, M) = x.shape[:2], self.conventions, memory.shape[1:]
        at = _C.ntm_record(self.input_size, self.controller_size, N, M, c.flat()[1])
        if lengths is None:
            frames = saved[: T * B].unflatten(0, (T, B))
        else:  # the longest row first, and of each tick those that are alive
            order = lengths.argsort(descending=True, stable=True)  # on the CPU, as an index of a GPU's tensor may be
            alive = torch.arange(T, device="cpu").unsqueeze(1) < lengths[order]
            frames = saved.new_zeros(T, B, saved.size(1))
            frames[alive] = saved[: int(lengths.sum())]
            frames = frames[:, order.argsort()]

        def part(name: str, *shape: int) -> Tensor:
            return frames[..., at[name] : at[name] + math.prod(shape)].unflatten(-1, shape)

        weightings = part("weightings", c.heads, at["padded_rows"])[..., :N]
        heads = split_heads(part("values", c.parameters(M)).flatten(0, 1), M, c)
        heads = Heads(*(h.unflatten(0, (T, B)) for h in heads))
        memories = []
        for t in range(T):  # the writes once more: of the memory the kernel keeps but every fourth
            for _, which in c.phases():
                k = list(which)
                w = weightings[t, :, [c.read_heads + j for j in k]]
                memory = write(memory, w, heads.erase[t, :, k], heads.add[t, :, k])
            memories.append(memory)
        memories = torch.stack(memories)
        if lengths is not None:
            alive = (torch.arange(T, device="cpu").unsqueeze(1) < lengths).view(T, B, 1, 1).to(memory.device)
            heads, memories = Heads(*(h * alive for h in heads)), memories * alive
        trace = (*weightings.split([c.read_heads, c.write_heads], 2), memories, *heads)
        if single or self.batch_first:
            trace = [t.squeeze(1) if single else t.transpose(0, 1) for t in trace]
        return NTMTrace(*trace[:3], Heads(*trace[3:]))

    @classmethod
    def from_pytorch_ntm(cls, state_dict: Mapping[str, Tensor], **arguments: Any) -> "NTM":
        """The machine of a checkpoint of loudinthecloud/pytorch-ntm, in its conventions.

        Args:
            state_dict: of its `EncapsulatedNTM`, or of its `NTM` (without the prefix "ntm.").
            arguments: further ones of `NTM`, such as `batch_first`.

        Raises:
            ValueError: a key is missing, or sizes do not fit each other.
        """
        weights = {key.removeprefix("ntm."): t for key, t in state_dict.items()}

        def take(key: str) -> Tensor:
            if key not in weights:
                raise ValueError(f"state_dict: expected the key {key!r} of pytorch-ntm, got {sorted(weights)}")
            return weights[key]

        heads = sorted({int(key.split(".")[1]) for key in weights if key.startswith("heads.")})
        reads = [k for k in heads if f"heads.{k}.fc_read.weight" in weights]
        writes = [k for k in heads if f"heads.{k}.fc_write.weight" in weights]
        memory, out = take("memory.mem_bias"), take("fc.weight")
        if heads != list(range(2 * len(reads))) or reads != heads[::2] or writes != heads[1::2]:
            raise ValueError(
                f"state_dict: expected heads that read and write in turn, got reads {reads}, writes {writes}"
            )
        layers = sum(key.startswith("controller.lstm.weight_hh_l") for key in weights)
        hidden, (rows, width) = take("controller.lstm.weight_hh_l0").size(1), memory.shape
        inputs = take("controller.lstm.weight_ih_l0").size(1) - len(reads) * width
        head_rows = [take(f"heads.{k}.fc_{'read' if k in reads else 'write'}.weight").size(0) for k in reads + writes]
        shifts = head_rows[0] - width - 3 if head_rows else 3
        machine = cls(
            inputs, out.size(0), "lstm", hidden, layers, len(reads), len(writes), rows, width, shifts // 2,
            **{"preset": "pytorch-ntm", "dtype": out.dtype, "device": out.device} | arguments,
        )  # fmt: skip
        values = {
            "initial_memory": memory,
            "initial_reads": torch.cat([take(f"read{i}_bias") for i in range(len(reads))]),
            "initial_h": take("controller.lstm_h_bias").squeeze(1),
            "initial_c": take("controller.lstm_c_bias").squeeze(1),
            "weight_out": out,
            "bias_out": take("fc.bias"),
        }
        for kind in ("weight", "bias"):
            of_reads = [take(f"heads.{k}.fc_read.{kind}") for k in reads]
            of_writes = [take(f"heads.{k}.fc_write.{kind}") for k in writes]
            values[f"{kind}_heads"] = torch.cat(of_reads + of_writes)
            for k in range(layers):
                for side in ("ih", "hh"):
                    values[f"{kind}_{side}_l{k}"] = take(f"controller.lstm.{kind}_{side}_l{k}")
        own = machine.state_dict()
        for name, value in values.items():
            if own[name].shape != value.shape:
                raise ValueError(f"state_dict: expected {tuple(own[name].shape)} for {name}, got {tuple(value.shape)}")
        machine.load_state_dict(own | values)
        return machine

    def extra_repr(self) -> str:
        sizes = ("input_size", "output_size", "controller", "controller_size", "controller_layers", "read_heads",
                 "write_heads", "memory_rows", "memory_width", "shift_range", "preset")  # fmt: skip
        words = [f"{name}={getattr(self, name)!r}" for name in sizes]
        of_preset = {**PRESETS["graves2014"], **PRESETS[self.preset]}
        words += [f"{name}={getattr(self, name)!r}" for name in of_preset if getattr(self, name) != of_preset[name]]
        words += ["batch_first=True"] * self.batch_first + ["recompute=True"] * self.recompute
        return ", ".join(words)
