"""The one list of the names of ``rnn_jax``: type checkers read it, and so does ``__init__.py`` when it is imported."""

from rnn_jax import (
    bridges as bridges,
    cells as cells,
    combinators as combinators,
    counting as counting,
    data as data,
    decoding as decoding,
    diagnostics as diagnostics,
    dropout as dropout,
    gradients as gradients,
    initializers as initializers,
    input_layers as input_layers,
    keys as keys,
    lab as lab,
    layers as layers,
    losses as losses,
    machinery as machinery,
    readouts as readouts,
    schedules as schedules,
    sequences as sequences,
    topologies as topologies,
    training as training,
    types as types,
)
from rnn_jax.bridges import (
    Bridge as Bridge,
    EncoderDecoder as EncoderDecoder,
    EncoderDecoderParams as EncoderDecoderParams,
    LinearBridgeParams as LinearBridgeParams,
    encoder_decoder as encoder_decoder,
    identity_bridge as identity_bridge,
    linear_bridge as linear_bridge,
)
from rnn_jax.cells import (
    ACTIVATIONS as ACTIVATIONS,
    CIFGParams as CIFGParams,
    CoRNNParams as CoRNNParams,
    CoRNNState as CoRNNState,
    ConvLSTMParams as ConvLSTMParams,
    DiagonalParams as DiagonalParams,
    GRUParams as GRUParams,
    GRUResetBeforeParams as GRUResetBeforeParams,
    GeneralLSTMParams as GeneralLSTMParams,
    IndRNNParams as IndRNNParams,
    JANETParams as JANETParams,
    LRUParams as LRUParams,
    LSTMParams as LSTMParams,
    LSTMState as LSTMState,
    LayerNormLSTMParams as LayerNormLSTMParams,
    MGUParams as MGUParams,
    MinGRUParams as MinGRUParams,
    MinLSTMParams as MinLSTMParams,
    PeepholeLSTMParams as PeepholeLSTMParams,
    ProjectedLSTMParams as ProjectedLSTMParams,
    SLSTMParams as SLSTMParams,
    SLSTMState as SLSTMState,
    UGRNNParams as UGRNNParams,
    VanillaParams as VanillaParams,
    antisymmetric as antisymmetric,
    chrono_gru as chrono_gru,
    chrono_lstm as chrono_lstm,
    cifg_lstm as cifg_lstm,
    clipped_lstm as clipped_lstm,
    conv_lstm as conv_lstm,
    cornn as cornn,
    ctrnn as ctrnn,
    diagonal as diagonal,
    general_lstm as general_lstm,
    gru as gru,
    gru_reset_before as gru_reset_before,
    indrnn as indrnn,
    irnn as irnn,
    janet as janet,
    layer_norm_lstm as layer_norm_lstm,
    lru as lru,
    lstm as lstm,
    mgu as mgu,
    min_gru as min_gru,
    min_lstm as min_lstm,
    peephole_lstm as peephole_lstm,
    projected_lstm as projected_lstm,
    slstm as slstm,
    ugrnn as ugrnn,
    vanilla as vanilla,
)
from rnn_jax.combinators import (
    DiagonalSkipParams as DiagonalSkipParams,
    LearnedStartParams as LearnedStartParams,
    ResidualState as ResidualState,
    diagonal_skip as diagonal_skip,
    learned_start as learned_start,
    mixed_precision as mixed_precision,
    residual as residual,
)
from rnn_jax.counting import (
    matching_size as matching_size,
    parameter_count as parameter_count,
)
from rnn_jax.decoding import (
    Beams as Beams,
    Decoded as Decoded,
    beam_search as beam_search,
    greedy as greedy,
    sample as sample,
    stream as stream,
)
from rnn_jax.diagnostics import (
    LagGradients as LagGradients,
    LagSummary as LagSummary,
    input_gradients as input_gradients,
    lag_gradients as lag_gradients,
    leading_gain as leading_gain,
    step_jacobian as step_jacobian,
    summarise_lags as summarise_lags,
)
from rnn_jax.dropout import (
    DroppedState as DroppedState,
    dropout_mask as dropout_mask,
    input_dropout as input_dropout,
    map_recurrent as map_recurrent,
    output_dropout as output_dropout,
    recurrent_dropout as recurrent_dropout,
    variational_dropout as variational_dropout,
    weight_drop as weight_drop,
    zoneout as zoneout,
)
from rnn_jax.input_layers import (
    DenseInputParams as DenseInputParams,
    EmbeddingParams as EmbeddingParams,
    dense_input as dense_input,
    embedding as embedding,
)
from rnn_jax.keys import (
    keyed as keyed,
)
from rnn_jax.layers import (
    BothWays as BothWays,
    Layer as Layer,
    bidirectional as bidirectional,
    stack as stack,
)
from rnn_jax.readouts import (
    Head as Head,
    HeadParams as HeadParams,
    LinearParams as LinearParams,
    ReadoutParams as ReadoutParams,
    linear_head as linear_head,
    mlp_head as mlp_head,
    readout as readout,
)
from rnn_jax.schedules import (
    outputs as outputs,
    rollout as rollout,
)
from rnn_jax.sequences import (
    length_mask as length_mask,
    reverse_sequence as reverse_sequence,
    window_cuts as window_cuts,
)
from rnn_jax.topologies import (
    many_to_many as many_to_many,
    many_to_one as many_to_one,
    one_to_many as one_to_many,
    one_to_one as one_to_one,
    scheduled_sampling as scheduled_sampling,
    sequence_to_sequence as sequence_to_sequence,
)
from rnn_jax.training import (
    LearnerInfo as LearnerInfo,
    LearnerState as LearnerState,
)
from rnn_jax.types import (
    Cell as Cell,
    ComplexState as ComplexState,
    Keyed as Keyed,
    cell_from_step as cell_from_step,
    linear_cell as linear_cell,
)

__all__: list[str]
__version__: str
