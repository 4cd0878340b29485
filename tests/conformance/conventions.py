"""Where libraries mean different things by one name, in words; the suites above the table hold the maps."""

CONVENTIONS = (
    (
        "padded steps",
        "ONNX and PyTorch write zeros, Keras holds the output (zeros with `zero_output_for_mask`), flax goes on",
        "the state is held; `jnp.where(seen, ys, 0)` gives their zeros",
    ),
    (
        "a sequence of no steps",
        "ONNX Runtime returns zeros for the last state, PyTorch refuses it",
        "the last state is the first one",
    ),
    (
        "gates of the LSTM",
        "PyTorch, Equinox, JAX, flax nnx: i f g o; Keras and TensorFlow Lite: i f c o; ONNX: i o f c; haiku and every "
        "convolutional LSTM of flax: i g f o; xLSTM: i f z o; ADBench: f i o g",
        "i f o g",
    ),
    ("gates of the GRU", "PyTorch, Equinox, flax: r z n; Keras and ONNX: z r h; haiku: z r a", "r z n"),
    (
        "two biases",
        "PyTorch, ONNX, haiku and `lstm_ref` add b_ih and b_hh",
        "one, their sum; a GRU with its reset after the product keeps the candidate's second bias as `b_n`",
    ),
    (
        "z of the GRU",
        "haiku: z writes, h = (1 − z) ⊙ h + z ⊙ a",
        "z keeps; the weights of z are negated, as 1 − σ(a) = σ(−a)",
    ),
    (
        "reset of the GRU",
        "after the product: PyTorch, flax, Equinox, Keras by default; before it: haiku, TensorFlow Lite, ONNX by "
        "default",
        "`gru` after, `gru_reset_before` before",
    ),
    (
        "the forget gate's 1",
        "haiku's LSTM and every convolutional LSTM of haiku and flax add 1 to the sum; Keras begins the bias at 1",
        "`forget_bias` is part of the initial bias; maps add 1 to it",
    ),
    (
        "minimal gated unit",
        "flax: f keeps, and resets after the product with a bias of its own; without its reset gate it is the update "
        "gate network",
        "`mgu` as published: f writes, and resets before the product; `ugrnn`",
    ),
    (
        "coupled gates",
        "ONNX Runtime reads the weights of i: f = 1 − σ(a); TensorFlow Lite those of f",
        "those of f, with i = 1 − f; the weights of i are negated",
    ),
    (
        "clips",
        "ONNX `clip` bounds the sums before every activation but that of the memory",
        "`clipped(activation, bound)`; `cell_clip` bounds the memory, as in TensorFlow Lite",
    ),
    (
        "layer norm of the LSTM",
        "TensorFlow Lite normalises the sum of a gate, its peephole included, with an ε of 1e-8",
        "`general_lstm(layer_norm=True, epsilon=1e-8)`; `layer_norm_lstm` is the one of the paper",
    ),
    (
        "hard sigmoid",
        "ONNX: slope 0.2; Keras 3 and PyTorch: slope 1/6",
        'slope 1/6 for `"hard_sigmoid"`; `hard_sigmoid(alpha, beta)` takes any',
    ),
    (
        "padding of a convolutional LSTM",
        'Keras: "valid" by default, for the input alone; haiku and flax: the same size',
        'the same size; `padding="valid"`',
    ),
    (
        "outputs of a reversed layer",
        "Keras `go_backwards` and flax `reverse` leave them in the order of computation, flax `keep_order` in place",
        "in place",
    ),
    (
        "auxiliary inputs",
        "TensorFlow Lite reads a second input by weights of its own, or backward alone",
        "one input (x, aux), with zeros in the weights of what is not read",
    ),
)

__all__ = ["CONVENTIONS"]
