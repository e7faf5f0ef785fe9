"""Memory of a training rank by part, counted from shapes alone.

Weights, gradients and optimizer follow from the parameters that a rank holds.  Activations are the
tensors that autograd keeps for a layer, counted one by one from the layers' sources: Megatron with
Transformer Engine's modules, or the local ones of a machine without a GPU.  tests/planning compares
the counts with the live tensors of the local layers.

Symbols, all of one rank: T positions of a row (sequence length / context parallel), H hidden
channels, Q and K channels of all query and key-value heads (/ tensor parallel), F channels of the
feed-forward part (/ tensor parallel), b bytes of an element, S sequence-parallel ranks (= tensor
parallel).
"""

from dataclasses import dataclass
from typing import Literal

from megatron_dasd.config.base import Launch
from megatron_dasd.losses.slices import CPU_BYTES, slice_bytes
from megatron_dasd.models.architecture import Architecture
from megatron_dasd.models.pipeline_stages import stages_of
from megatron_dasd.models.sizes import ADAM_MOMENT_BYTES, element_bytes, optimizer_bytes
from megatron_dasd.planning import delta_nets

_ROUTED_COPIES = 6
"""Copies of all routed tokens that the backward pass of experts has at a time."""
Layers = Literal["transformer_engine", "local"]
Recompute = Literal["none", "full"]


@dataclass(frozen=True)
class Memory:
    """Bytes of one rank."""

    weights: float
    gradients: float
    optimizer: float
    activations: float
    """Kept for the backward pass, for all micro-batches in flight."""
    loss: float
    """What is there for a moment beside them: logits or their slices, on the last pipeline stage;
    or the backward pass of a layer, with the layer itself where it is recomputed, if it takes more.
    """

    @property
    def total(self) -> float:
        """Sum of all parts, as if all peaked at the same time."""
        return self.weights + self.gradients + self.optimizer + self.activations + self.loss


@dataclass(frozen=True)
class Recipe:
    """The properties of a training that determine its memory and time."""

    architecture: Architecture
    launch: Launch
    seq_length: int
    bf16: bool = True
    chunked_loss: bool = True
    slice_bytes: int = CPU_BYTES
    """Logits that a chunked loss holds at a time, in float32."""
    recompute: Recompute = "none"
    layers: Layers = "transformer_engine"
    moment_bytes: int = ADAM_MOMENT_BYTES
    """Both of Adam's moments, per weight."""
    saved_copy_bytes: int = 0
    """Of the float32 copy of a weight, what the optimizer takes from the weight itself."""
    gradient_bytes: int = 4
    """Accumulated gradient, per weight."""
    fp8: bool = False
    """Whether the layers' products are in FP8."""
    num_micro_batches: int = 1
    """Rows per step on each data-parallel rank."""

    @property
    def data_parallel(self) -> int:
        """Groups of ranks that train on different rows."""
        of_a_row = self.launch.tensor_parallel * self.launch.pipeline_parallel
        return self.launch.num_ranks // (of_a_row * self.launch.context_parallel)

    @property
    def element_bytes(self) -> int:
        """Bytes of an element of weights and activations."""
        return element_bytes(self.bf16)

    @property
    def stage_layers(self) -> list[int]:
        """Layers of each pipeline stage."""
        return stages_of(self.launch).layers(self.architecture.num_layers)

    def num_layers(self, stage: int) -> int:
        """Layers of a pipeline stage."""
        return self.stage_layers[stage]

    def num_linear_layers(self, stage: int) -> int:
        """Those of a pipeline stage's layers whose attention is linear."""
        linear = self.architecture.linear
        if linear is None:
            return 0
        chunks = self.launch.virtual_pipeline
        sizes = [layers // chunks for layers in self.stage_layers]
        starts = (chunk * sum(sizes) + sum(sizes[:stage]) for chunk in range(chunks))
        return sum(sum(linear.layers[start : start + sizes[stage]]) for start in starts)


def parameters(recipe: Recipe, stage: int) -> tuple[int, int]:
    """Parameters that a rank of a pipeline stage holds: (all but experts, experts)."""
    a, launch = recipe.architecture, recipe.launch
    tensor = launch.tensor_parallel
    q, k = a.num_attention_heads * a.head_dim, a.num_query_groups * a.head_dim
    attention = (a.hidden_size * (_projected(recipe)) + q * a.hidden_size) // tensor
    attention += (q + 2 * k) // tensor * (a.family.qkv_bias or a.attention_bias)
    attention += a.hidden_size * a.attention_bias + 2 * a.head_dim * a.family.qk_layernorm
    layer, expert = 2 * a.hidden_size, 0
    if a.experts:
        layer += a.hidden_size * a.experts.num_experts
        if a.experts.shared_ffn_hidden_size:
            layer += 3 * a.hidden_size * a.experts.shared_ffn_hidden_size // tensor + a.hidden_size
        own = a.experts.num_experts // launch.expert_parallel
        expert = own * 3 * a.hidden_size * a.experts.ffn_hidden_size // tensor
    else:
        layer += 3 * a.hidden_size * a.ffn_hidden_size // tensor
    linear = recipe.num_linear_layers(stage)
    layers = recipe.num_layers(stage)
    dense = layers * layer + (layers - linear) * attention
    if a.linear:
        dense += linear * delta_nets.weights(a.linear, a.hidden_size, tensor)
    last = stage == launch.pipeline_parallel - 1
    embedding = a.padded_vocab_size * a.hidden_size // tensor
    dense += embedding * (stage == 0)
    if last:
        # the last stage has a copy of a shared embedding, unless it is the first stage too
        dense += a.hidden_size + embedding * (not a.tied_embeddings or stage > 0)
    return dense, layers * expert


def _projected(recipe: Recipe) -> int:
    """Rows of the projection to queries, their gates where the family has any, keys and values."""
    a = recipe.architecture
    q, k = a.num_attention_heads * a.head_dim, a.num_query_groups * a.head_dim
    return q * (2 if a.linear else 1) + 2 * k


def memory(recipe: Recipe, stage: int) -> Memory:
    """Memory of a rank of a pipeline stage."""
    launch, b = recipe.launch, recipe.element_bytes
    dense, expert = parameters(recipe, stage)
    weight_bytes = optimizer_bytes(recipe.bf16, recipe.moment_bytes)
    sharing = expert_sharing = 1
    if launch.distributed_optimizer:
        sharing = recipe.data_parallel * launch.context_parallel
        expert_sharing = max(1, sharing // launch.expert_parallel)
    loss = _loss(recipe) if stage == launch.pipeline_parallel - 1 else 0.0
    return Memory(
        weights=b * (dense + expert) + _fp8_copies(recipe, stage),
        gradients=recipe.gradient_bytes * (dense + expert),
        optimizer=(weight_bytes - recipe.saved_copy_bytes)
        * (dense / sharing + expert / expert_sharing),
        activations=_activations(recipe, stage),
        loss=max(loss, layer_backward(recipe, stage)),
    )


def _fp8_copies(recipe: Recipe, stage: int) -> float:
    """Weights of the layers' products in FP8 and transposed, kept from row to row of a step."""
    if not recipe.fp8 or recipe.layers == "local":
        return 0.0
    a, tensor = recipe.architecture, recipe.launch.tensor_parallel
    q = a.num_attention_heads * a.head_dim
    attention = (a.hidden_size * _projected(recipe) + q * a.hidden_size) // tensor
    layer = 0
    if a.experts:
        own = a.experts.num_experts // recipe.launch.expert_parallel
        layer += own * 3 * a.hidden_size * a.experts.ffn_hidden_size // tensor
        layer += 3 * a.hidden_size * (a.experts.shared_ffn_hidden_size or 0) // tensor
    else:
        layer += 3 * a.hidden_size * a.ffn_hidden_size // tensor
    linear = recipe.num_linear_layers(stage)
    layers = recipe.num_layers(stage)
    total = layers * layer + (layers - linear) * attention
    if a.linear:
        total += linear * delta_nets.product_weights(a.linear, a.hidden_size, tensor)
    return 2 * total


def highest(recipe: Recipe) -> Memory:
    """Memory on the pipeline stage that needs most."""
    stages = range(recipe.launch.pipeline_parallel)
    return max((memory(recipe, stage) for stage in stages), key=lambda found: found.total)


def rows_in_flight(recipe: Recipe, stage: int) -> float:
    """Largest number of micro-batches whose activations a stage holds at a time.

    Under 1F1B it is the number of stages from this one to the last; interleaved, with v chunks of
    layers per stage, (p - 1) / v more (Narayanan et al., arXiv 2104.04473, 2.2).
    """
    p, v = recipe.launch.pipeline_parallel, recipe.launch.virtual_pipeline
    if v == 1:
        return min(recipe.num_micro_batches, p - stage)
    chunks = min(recipe.num_micro_batches * v, 2 * (p - stage - 1) + (v - 1) * p + 1)
    return chunks / v


def _activations(recipe: Recipe, stage: int) -> float:
    t = recipe.seq_length / recipe.launch.context_parallel
    h, b = recipe.architecture.hidden_size, recipe.element_bytes
    sharded = t * h * b / recipe.launch.tensor_parallel
    rows, layers = rows_in_flight(recipe, stage), recipe.num_layers(stage)
    # the final norm, and the input of the output layer
    end = _norm(recipe, sharded) + t * h * b
    end *= stage == recipe.launch.pipeline_parallel - 1
    if recipe.recompute == "full":
        # the input of each layer, and where its tokens went
        return rows * layers * (sharded + _routing(recipe)) + end
    linear = recipe.num_linear_layers(stage)
    kept = (layers - linear) * layer_activations(recipe)
    kept += linear * layer_activations(recipe, linear=True)
    return rows * kept + end


def layer_activations(recipe: Recipe, linear: bool = False) -> float:
    """Bytes that autograd keeps for one layer and one row.

    Args:
        linear: whether its attention is linear, in a model that has such layers.
    """
    a, launch, b = recipe.architecture, recipe.launch, recipe.element_bytes
    t = recipe.seq_length / launch.context_parallel
    tensor = launch.tensor_parallel
    sharded = t * a.hidden_size * b / tensor
    q = t * a.num_attention_heads * a.head_dim * b / tensor
    k = t * a.num_query_groups * a.head_dim * b / tensor
    sums = 4 * t * a.num_attention_heads / tensor  # the softmax's, float32
    # both norms, and what is behind them: products, or experts' router
    behind = _kept_share(recipe) * sharded
    norms = 2 * _norm(recipe, sharded) + behind + (sharded if a.experts else behind)
    if linear and a.linear:
        local = recipe.layers == "local"
        attention = delta_nets.activations(a.linear, t / tensor, b, local)
        return norms + attention + _feed_forward(recipe, t)
    if recipe.layers == "local":
        attention = _local_attention(recipe, q, k) + sums
    else:
        # query, key, value; query and key after the rotation; the output projection's input
        attention = (q + 2 * k) + (q + k) + q + sums
        if recipe.fp8:
            attention += _kept_share(recipe) * q
    if a.linear:
        # the gate, in float32 and its sigmoid; what it scales
        attention += q + 2 * q * 4 / b
    return norms + attention + _feed_forward(recipe, t)


def layer_backward(recipe: Recipe, stage: int) -> float:
    """Bytes that the backward pass of one layer and one row has at a time, beside what is kept.

    They are gradients, and in a layer that is recomputed all that it keeps.
    """
    a, b = recipe.architecture, recipe.element_bytes
    t = recipe.seq_length / recipe.launch.context_parallel
    again = 0.0
    if recipe.recompute == "full":
        linear = recipe.num_linear_layers(stage)
        kinds = {layer < linear for layer in range(recipe.num_layers(stage))}
        again = max(layer_activations(recipe, linear=kind) for kind in kinds)
    if a.experts is None:
        # gradients of gate, input and their product; of the layer's output, gathered
        wide = 3 * a.ffn_hidden_size / recipe.launch.tensor_parallel
        return again + t * (wide + a.hidden_size) * b
    routed = t * a.experts.experts_per_token
    return again + _ROUTED_COPIES * routed * a.hidden_size * b


def _local_attention(recipe: Recipe, q: float, k: float) -> float:
    a, launch, b = recipe.architecture, recipe.launch, recipe.element_bytes
    t = recipe.seq_length / launch.context_parallel
    share = a.rotary.share if a.rotary else 1.0
    angles = 4 * t * a.head_dim * share * b  # cosines and sines, of queries and of keys
    normalised = 0.0
    if a.family.qk_layernorm:
        # in float32 the keys' norm takes them from where all three are kept
        normalised = _norm(recipe, q) + _norm(recipe, k) - (0 if recipe.bf16 else k)
    # context parallel: keys and values of the whole row, gathered
    whole = launch.context_parallel
    values = 2 * k * whole if whole > 1 else k
    return (q + 2 * k) + normalised + angles + q + values + 2 * q


def _kept_share(recipe: Recipe) -> float:
    """Share that is kept of the bytes of a product's input: in FP8 an element is one byte."""
    return 1 / recipe.element_bytes if recipe.fp8 and recipe.layers != "local" else 1.0


def _norm(recipe: Recipe, size: float) -> float:
    """Bytes kept by a norm of ``size`` bytes: the input; local: input and result in float32."""
    return 2 * size * 4 / recipe.element_bytes if recipe.layers == "local" else size


def _feed_forward(recipe: Recipe, t: float) -> float:
    a, b, tensor = recipe.architecture, recipe.element_bytes, recipe.launch.tensor_parallel
    local, kept = recipe.layers == "local", _kept_share(recipe)
    # gate and input; their product; local: also the activated gate and a copy of the input
    times = 5 if local else 2 + kept
    if a.experts is None:
        return times * t * a.ffn_hidden_size * b / tensor
    routed = t * a.experts.experts_per_token
    own = times * routed * a.experts.ffn_hidden_size * b / tensor
    # inputs of the experts, a copy for each expert of a token; then the routing
    moved = kept * routed * a.hidden_size * b
    if local:  # also the experts' outputs, and the router's input in float32
        moved += routed * a.hidden_size * b + t * a.hidden_size * b
    shared = 0.0
    if a.experts.shared_ffn_hidden_size:
        # its hidden layer; its result and input for the gate
        shared = times * t * a.experts.shared_ffn_hidden_size * b / tensor
        shared += 2 * t * a.hidden_size * b / tensor
    return own + moved + shared + _routing(recipe)


def _routing(recipe: Recipe) -> float:
    """Bytes of probabilities and maps of tokens to experts; the experts' dispatcher holds them."""
    a, launch = recipe.architecture, recipe.launch
    if a.experts is None:
        return 0.0
    t = recipe.seq_length / launch.context_parallel
    own = t if recipe.layers == "local" else t / launch.tensor_parallel
    return 3 * own * a.experts.num_experts * 4


def _loss(recipe: Recipe) -> float:
    t = recipe.seq_length / recipe.launch.context_parallel
    a, b = recipe.architecture, recipe.element_bytes
    weights = a.padded_vocab_size * a.hidden_size / recipe.launch.tensor_parallel
    num_logits = t * a.padded_vocab_size / recipe.launch.tensor_parallel
    if recipe.chunked_loss:
        # a slice in float32 and, where that is another, in the model's type; beside it first the
        # hidden states' gradient in float32 and in that type, then also a gradient of the weights
        # that stands for the one in their main_grad
        slices = slice_bytes(num_logits, recipe.slice_bytes) * (1 + (b / 4 if b < 4 else 0))
        gradient = t * a.hidden_size * b
        return slices + gradient + max(4 * t * a.hidden_size, weights * b)
    # in the model's type, in float32, and the softmax kept for the backward pass
    return num_logits * (b + 4 + 4)
