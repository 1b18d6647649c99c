"""What pruning, initialisation and export tools ask of torch.nn's layers beyond the public interface."""

from collections.abc import Sequence

from torch import Tensor, nn

from ..functional import packed_rows

__all__ = ["TorchNames"]


class TorchNames:
    """Attributes and methods of `torch.nn.RNNBase`, for `Recurrent`.

    They are made anew of the parameters whenever somebody asks, so that they are right whatever was pruned,
    parametrized or replaced, and cannot be assigned. They keep torch.nn's names and arguments.
    """

    @property
    def _all_weights(self) -> list[list[str]]:
        """The names of the parameters of every layer and direction, in torch.nn's order."""
        groups = zip(self._weight_names, self._reset_names, strict=True)
        return [[name for name in (*names, *resets) if name is not None] for names, resets in groups]

    @property
    def _flat_weights_names(self) -> list[str]:
        return [name for names in self._all_weights for name in names]

    @property
    def _flat_weights(self) -> list[nn.Parameter]:
        return [getattr(self, name) for name in self._flat_weights_names]

    def check_input(self, input: Tensor, batch_sizes: Tensor | None) -> None:
        """Raises what `forward` raises of a batch, or of the data of a `PackedSequence`."""
        self._check_rank(input, batch_sizes)
        self._check(input, self._weights()[0], (), ())

    def get_expected_hidden_size(self, input: Tensor, batch_sizes: Tensor | None) -> tuple[int, int, int]:
        """The shape of h in `hx`."""
        return self._expected(input, batch_sizes, "h")

    def get_expected_cell_size(self, input: Tensor, batch_sizes: Tensor | None) -> tuple[int, int, int]:
        """The shape of the cell state in `hx`, of layers that have one."""
        if "c" not in self.states:
            raise AttributeError(f"get_expected_cell_size: expected a cell state, {type(self).__name__} has none")
        return self._expected(input, batch_sizes, "c")

    def check_hidden_size(
        self, hx: Tensor, expected_hidden_size: Sequence[int], msg: str = "hx: expected shape {}, got {}"
    ) -> None:
        if tuple(hx.shape) != tuple(expected_hidden_size):
            raise RuntimeError(msg.format(tuple(expected_hidden_size), tuple(hx.shape)))

    def check_forward_args(
        self, input: Tensor, hidden: Tensor | tuple[Tensor, ...], batch_sizes: Tensor | None
    ) -> None:
        """Raises what `forward` raises of a batch and its initial state."""
        self._check_rank(input, batch_sizes)
        self._check(input, self._weights()[0], self._open(hidden), self._expected(input, batch_sizes, "h")[1:2])

    def permute_hidden(
        self, hx: Tensor | tuple[Tensor, ...], permutation: Tensor | None
    ) -> Tensor | tuple[Tensor, ...]:
        """The state with its rows in another order."""
        if permutation is None:
            return hx
        return self._close([state.index_select(1, permutation) for state in self._open(hx)])

    def _check_rank(self, input: Tensor, batch_sizes: Tensor | None) -> None:
        rank = 3 if batch_sizes is None else 2
        if input.dim() != rank:
            raise RuntimeError(f"input: expected {rank} dimensions, got {input.dim()}")

    def _expected(self, input: Tensor, batch_sizes: Tensor | None, state: str) -> tuple[int, int, int]:
        rows = input.size(0 if self.batch_first else 1) if batch_sizes is None else packed_rows(input, batch_sizes)
        return self._streams, rows, self._width(state)
