"""Why a target is missed, in a few words, by its first column in RESULTS.md; shown only beside one that is missed."""

from .options import GROUPS
from .variants import VARIANTS

PRODUCTS = "B = 32, H = 256: products are most of our time there, and the loop's run as near the FMA peak"
WIDE = "the same, and blocks of 2 are computed as single cells, with twice the multiply-adds of the loop"
RUNTIME = "B <= 8: ONNX Runtime's products of few rows are faster, as they are for LSTM"
KEPT = "H = 100, I = 1: little arithmetic beside 15 numbers of a unit and tick that go to memory and back (LSTM: 5)"
THIN = "with fewer rows a tick's fixed costs stay: the weights read from L2, the meeting of the threads"
HEADS = "of 3.3 us a row and tick on a core, products are 1.2, the cell 0.3, the heads' exp, log and memory 1.5"
STEPS = "products are 8 of 31 ms on a core, the heads 15; eager's own products fill with the batch"
CALLS = "two calls through torch's dispatcher and autograd, and their tensors"

REASONS: dict[str, str] = {
    "NTM, T42-B64-N128-heads1, over eager: forward + backward": STEPS,
    "NTM, T42-B64-N128-heads1, over eager: inference": HEADS,
    **{
        f"{name} over the best peer: {mode}": WIDE if name.startswith("LSTM1997") else PRODUCTS
        for name in VARIANTS
        for mode in ("inference", "forward + backward")
    },
    **{f"{name} over the best peer: inference": RUNTIME for name, variant in VARIANTS.items() if variant.onnx},
    **{
        f"{name} over {option.base}: {mode}": KEPT
        for options in GROUPS.values()
        for name, option in options.items()
        for mode in ("inference", "forward + backward")
        if name.startswith("LayerNorm")
    },
    "LayerNormLSTM over LSTM: inference": "H = 100, I = 1: the statistics of 900 numbers of a row and tick",
    "LayerNormGRU over GRU: inference": "H = 128: the statistics of 768 numbers of a row and tick",
    "zoneout of h and c over LSTM: forward + backward": "H = 100, I = 1: two masks of a unit and tick hashed, twice",
    "weight dropout over LSTM: forward + backward": "B = 1: the mask of 262,144 weights hashed twice a call",
    "recompute over LSTM: forward + backward": "the forward once more is 1.33x; the rest are pieces begun and ended",
    "lengths over LSTM: inference": THIN,
    "lengths over LSTM: forward + backward": THIN,
    "packed over as many frames padded: inference": THIN + ", over twice as many ticks",
    "packed over as many frames padded: forward + backward": THIN + ", over twice as many ticks",
    "truncated backward of LSTM1997 over its full gradient's": "weight gradients, which both need, are half the "
    "products: 1.6x at most by their count",
    "LSTM1997 of 12 units, full gradient, a sequence of 12 ticks": CALLS,
    "LSTM1997 of 12 units, truncated gradient, a sequence of 12 ticks": CALLS,
}
