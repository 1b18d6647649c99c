"""The layers torch.nn has not: peepholes, coupled gates, layer norm, Dey and Salem's GRUs, IndRNN, LSTM of 1997.

Constructors take torch.nn's arguments in torch.nn's order, then the class's own by keyword, then those of `Recurrent`.
"""

from typing import Any

import torch
from torch import Tensor, nn

from . import families
from .recurrent import Recurrent

__all__ = [
    "PeepholeLSTM",
    "CoupledLSTM",
    "LayerNormLSTM",
    "LayerNormGRU",
    "GRU1",
    "GRU2",
    "GRU3",
    "IndRNN",
    "LSTM1997",
]


class PeepholeLSTM(families.PeepholeLSTM, Recurrent):
    """LSTM whose gates see the cell state through one weight each.

        a_i, a_f, a_g, a_o = W x + b_ih + U h + b_hh
        c' = sigmoid(a_f + p_f c) c + sigmoid(a_i + p_i c) g(a_g)
        h' = sigmoid(a_o + p_o c') h(c')

    Args: those of `LSTM` without `proj_size`, and by keyword
        g, h: squashing functions: "tanh", "relu", "logistic", "identity", "g1997" (4 / (1 + exp(-x)) - 2) or "h1997"
            (2 / (1 + exp(-x)) - 1). The paper's experiments: g="identity", h="identity".
        gradient: "full", or "truncated" as in the paper: none flows back through the recurrent products and the
            peepholes (the weights of both are trained). No true gradient: double backward raises.

    Parameters, by layer k, and again with `_reverse`: `weight_ih_lk` (4H,I or D*H), `weight_hh_lk` (4H,H),
    `bias_ih_lk` (4H), `bias_hh_lk` (4H), gates in the order i, f, g, o; `weight_ch_lk` (3H), the peepholes p in the
    order i, f, o.

    Source: Gers, Schraudolph and Schmidhuber, "Learning precise timing with LSTM recurrent networks", JMLR 3, 2002.
    """


class CoupledLSTM(families.CoupledLSTM, Recurrent):
    """LSTM whose forget gate is what the input gate leaves.

        i, g, o = W x + b_ih + U h + b_hh
        c' = (1 - sigmoid(i)) c + sigmoid(i) tanh(g)
        h' = sigmoid(o) tanh(c')

    Args: those of `LSTM` without `proj_size`.

    Parameters, by layer k, and again with `_reverse`: `weight_ih_lk` (3H,I or D*H), `weight_hh_lk` (3H,H),
    `bias_ih_lk` (3H), `bias_hh_lk` (3H); gates in the order i, g, o.

    Source: Greff et al., "LSTM: A search space odyssey", 2015 (there CIFG).
    """


class LayerNormLSTM(families.LayerNormLSTM, Recurrent):
    """LSTM with layer normalisation, in the three forms that go by this name.

        LN(v) = (v - mean(v)) / sqrt(var(v) + eps), over a whole vector, variance without Bessel's correction

        norm="ba2016"   i, f, g, o = ln_ih LN(W x) + ln_hh LN(U h) + b_ih + b_hh      LN over all 4H
                        c' = sigmoid(f) c + sigmoid(i) tanh(g)
                        h' = sigmoid(o) tanh(ln_c LN(c') + shift_c)                   the carried c' is not normalised
        norm="carry"    i, f, g, o as above
                        c' = ln_c LN(sigmoid(f) c + sigmoid(i) tanh(g)) + shift_c     the carried c' is
                        h' = sigmoid(o) tanh(c')
        norm="gate"     each gate k of i, f, g, o alone: ln_k LN(W_k x + U_k h) + b_k      LN over its H
                        c', h' as with "carry"

    `cell_clip` acts on sigmoid(f) c + sigmoid(i) tanh(g).

    Args: those of `LSTM` without `proj_size`, and by keyword
        norm: "ba2016" (the paper, haste), "carry" (PyTorch's custom_lstms, TensorFlow Addons) or "gate" (TensorFlow 1).
        eps: added to the variance.

    Parameters, by layer k, and again with `_reverse`: `weight_ih_lk` (4H,I or D*H), `weight_hh_lk` (4H,H),
    `bias_ih_lk` (4H), `bias_hh_lk` (4H), added after the normalisation; gains `ln_ih_weight_lk` (4H) and
    `ln_hh_weight_lk` (4H), with norm="gate" one `ln_weight_lk` (4H) instead; `ln_c_weight_lk` (H), `ln_c_bias_lk` (H).
    Gates in the order i, f, g, o.

    Source: Ba, Kiros and Hinton, "Layer normalization", 2016.
    """

    @classmethod
    def from_haste(cls, source: nn.Module | dict[str, Tensor], **options: Any) -> "LayerNormLSTM":
        """A layer that computes what a `haste_pytorch.LayerNormLSTM` does.

        haste multiplies from the right and has its gates in the order i, g, f, o; gamma's two rows are the gains of
        the input's and of the recurrent product, and one bias stands for two:

            kernel (I,4H)            -> weight_ih_l0, transposed
            recurrent_kernel (H,4H)  -> weight_hh_l0, transposed
            bias (4H)                -> bias_ih_l0; bias_hh_l0 is 0
            gamma (2,4H)             -> ln_ih_weight_l0, ln_hh_weight_l0
            gamma_h, beta_h (H)      -> ln_c_weight_l0, ln_c_bias_l0

        Args:
            source: the module, whose batch_first, zoneout and dropout (here `weight_dropout`) are taken over, or its
                state_dict. Values are copied.
            options: of the constructor; they come before what the module says.

        Raises:
            ValueError: a parameter is missing or of another shape, or an option asks for another layer than haste's.
        """
        state = source.state_dict() if isinstance(source, nn.Module) else source
        names = ("kernel", "recurrent_kernel", "bias", "gamma", "gamma_h", "beta_h")
        if missing := [name for name in names if name not in state]:
            raise ValueError(f"source: expected a haste LayerNormLSTM, got none of its {', '.join(missing)}")
        kernel, recurrent, bias, gamma, gamma_h, beta_h = (state[name] for name in names)
        inputs, hidden = kernel.size(0), recurrent.size(0)
        shapes = (inputs, 4 * hidden), (hidden, 4 * hidden), (4 * hidden,), (2, 4 * hidden), (hidden,), (hidden,)
        for name, shape in zip(names, shapes, strict=True):
            if state[name].shape != shape:
                raise ValueError(f"source: expected shape {shape} for {name}, got {tuple(state[name].shape)}")
        if isinstance(source, nn.Module):
            taken = {"batch_first": "batch_first", "zoneout": "zoneout", "dropout": "weight_dropout"}
            options = {ours: getattr(source, theirs, 0) for theirs, ours in taken.items()} | options
            options["batch_first"] = bool(options["batch_first"])
        for name, fixed in {"num_layers": 1, "bidirectional": False, "bias": True, "norm": "ba2016"}.items():
            if options.get(name, fixed) != fixed:
                raise ValueError(f"{name}: expected {fixed!r}, which haste's layer is, got {options[name]!r}")
        module = cls(inputs, hidden, **{"device": kernel.device, "dtype": kernel.dtype} | options)

        def reorder(t: Tensor) -> Tensor:
            i, g, f, o = t.chunk(4, -1)
            return torch.cat((i, f, g, o), -1)

        values = {
            "weight_ih_l0": reorder(kernel).t(),
            "weight_hh_l0": reorder(recurrent).t(),
            "bias_ih_l0": reorder(bias),
            "bias_hh_l0": torch.zeros_like(bias),
            "ln_ih_weight_l0": reorder(gamma[0]),
            "ln_hh_weight_l0": reorder(gamma[1]),
            "ln_c_weight_l0": gamma_h,
            "ln_c_bias_l0": beta_h,
        }
        with torch.no_grad():
            for name, value in values.items():
                getattr(module, name).copy_(value)
        return module


class LayerNormGRU(families.LayerNormGRU, Recurrent):
    """GRU with layer normalisation; LN as in `LayerNormLSTM`.

        norm="ba2016"   X = ln_ih LN(W x), Y = ln_hh LN(U h)                          LN over all 3H
                        r = sigmoid(X_r + Y_r + b_ir + b_hr)
                        z = sigmoid(X_z + Y_z + b_iz + b_hz)
                        n = tanh(X_n + b_in + r (Y_n + b_hn))
        norm="gate"     r = sigmoid(ln_r LN(W_r x + U_r h) + b_ir + b_hr)             LN over each gate's H
                        z = sigmoid(ln_z LN(W_z x + U_z h) + b_iz + b_hz)
                        n = tanh(ln_n LN(W_n x + r (U_n h + b_hn)) + b_in)
        both            h' = (1 - z) n + z h

    Args: those of `LSTM` without `proj_size`, and by keyword
        norm: "ba2016" or "gate".
        eps: added to the variance.

    Parameters, by layer k, and again with `_reverse`: `weight_ih_lk` (3H,I or D*H), `weight_hh_lk` (3H,H),
    `bias_ih_lk` (3H), `bias_hh_lk` (3H); gains `ln_ih_weight_lk` (3H) and `ln_hh_weight_lk` (3H), with norm="gate" one
    `ln_weight_lk` (3H) instead; gates in the order r, z, n.

    Source: Ba, Kiros and Hinton, "Layer normalization", 2016.
    """


class GRU1(families.GRU1, Recurrent):
    """GRU whose gates do not see the input.

        r = sigmoid(U_r h + b_r)
        z = sigmoid(U_z h + b_z)
        n = f(W x + U_n (r h) + b_n)
        h' = (1 - z) h + z n                     z as in the source: `GRU`'s is 1 - z

    Args: those of `LSTM` without `proj_size`, and by keyword
        activation: f, "tanh" or "relu".

    Parameters, by layer k, and again with `_reverse`: `weight_ih_lk` (H,I or D*H), `weight_hh_lk` (3H,H),
    `bias_ih_lk` (3H); gates in the order r, z, n. There is no `bias_hh`.

    Source: Dey and Salem, "Gate-variants of gated recurrent unit (GRU) neural networks", 2017.
    """


class GRU2(families.GRU2, Recurrent):
    """GRU whose gates see neither the input nor a bias.

        r = sigmoid(U_r h)
        z = sigmoid(U_z h)
        n = f(W x + U_n (r h) + b_n)
        h' = (1 - z) h + z n                     z as in the source: `GRU`'s is 1 - z

    Args: those of `GRU1`.

    Parameters, by layer k, and again with `_reverse`: `weight_ih_lk` (H,I or D*H), `weight_hh_lk` (3H,H),
    `bias_ih_lk` (H), of n; gates in the order r, z, n. There is no `bias_hh`.

    Source: Dey and Salem, "Gate-variants of gated recurrent unit (GRU) neural networks", 2017.
    """


class GRU3(families.GRU3, Recurrent):
    """GRU whose gates are learned constants.

        r = sigmoid(b_r)
        z = sigmoid(b_z)
        n = f(W x + U (r h) + b_n)
        h' = (1 - z) h + z n                     z as in the source: `GRU`'s is 1 - z

    Args: those of `GRU1`. Without biases both gates are 1/2.

    Parameters, by layer k, and again with `_reverse`: `weight_ih_lk` (H,I or D*H), `weight_hh_lk` (H,H),
    `bias_ih_lk` (3H) in the order r, z, n. There is no `bias_hh`.

    Source: Dey and Salem, "Gate-variants of gated recurrent unit (GRU) neural networks", 2017.
    """


class IndRNN(families.IndRNN, Recurrent):
    """Independently recurrent network: every unit feeds back to itself alone.

        h' = f(W x + b_ih + u h)

    Args: those of `LSTM` without `proj_size`, and by keyword
        nonlinearity: f, "tanh" or "relu".

    There is no recurrent product, so neither `recurrent_dropout` nor `weight_dropout`.

    Parameters, by layer k, and again with `_reverse`: `weight_ih_lk` (H,I or D*H), `weight_hh_lk` (H), which is u,
    `bias_ih_lk` (H). There is no `bias_hh`.

    Source: Li et al., "Independently recurrent neural network (IndRNN): Building a longer and deeper RNN", 2018.
    """


class LSTM1997(families.LSTM1997, Recurrent):
    """LSTM as first published: blocks of S memory cells that share their gates, and gates that feed back too.

        i, o = sigmoid(W x + U (h, i, o) + b)    of each block; with forget_gate f likewise
        c' = f c + i g(W x + U (h, i, o) + b)    of each cell; f = 1 without forget_gate
        h' = o h(c')                             o = 1 without output_gate

    U reads what cells and gates put out at the tick before.

    Args:
        input_size: features of the input (I).
        hidden_size: memory cells of every layer (H), a multiple of `block_size`.
        num_layers: layers (L), each fed with the cells of the one below.
        bias: "none", "gates" (one for each gate, none for the cells) or "all"; False and True are the first and last.
        batch_first, dropout, bidirectional, device, dtype: those of `LSTM`, the last two by keyword.
        block_size: cells of a block (S); cell v of block j is unit j*S + v, and there are b = H / S blocks.
        forget_gate: whether blocks have a forget gate (Gers, Schmidhuber and Cummins, "Learning to forget", 2000).
        output_gate: whether they have an output gate.
        recurrent: whether anything feeds back but a cell to itself.
        gate_feedback: whether gates feed back beside the cells.
        g, h: squashing functions of what enters and of what leaves a cell: "g1997" (4 / (1 + exp(-x)) - 2), "h1997"
            (2 / (1 + exp(-x)) - 1), "tanh", "relu", "logistic" or "identity".
        gradient: "full", or "truncated" as in the paper: none flows back through the recurrent products, only from
            c' to c. No true gradient: double backward raises.
        Others, by keyword: those of `Recurrent`. A recurrent mask acts on h, not on the gates.

    Input is that of every layer. `hx` and the state returned are three: h (L*D,B,H), c (L*D,B,H) and gates
    (L*D,B,n*b), of n = 1 + forget_gate + output_gate gates in the order i, f, o, each b wide; so are the states of
    `return_all`.

    Parameters, by layer k, and again with `_reverse`: `weight_ih_lk` (n*b+H,I or D*H), rows i (b), f (b), cells (H),
    o (b); `weight_hh_lk` (n*b+H,H+n*b), columns cells (H) and, with gate_feedback, i, f, o, absent without `recurrent`;
    `bias_ih_lk` (n*b+H) or, of the gates alone, (n*b). There is no `bias_hh`.

    Source: Hochreiter and Schmidhuber, "Long short-term memory", Neural Computation 9(8), 1997.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: str | bool = "none",
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        **options: Any,
    ) -> None:
        super().__init__(
            input_size,
            hidden_size,
            num_layers=num_layers,
            bias=bias,
            batch_first=batch_first,
            dropout=dropout,
            bidirectional=bidirectional,
            **options,
        )
