"""Which fields of a ``config.json`` may be there: those that are followed, and those of no effect.

``transformers`` asks a config for fields that no class declares (``is_causal``,
``attention_chunk_size``, ``transformers_weights``), so that a field which is not known here may
change what the model computes.  It is refused, never passed over.
"""

from collections.abc import Iterable

_FOLLOWED = {
    "architectures",
    "attention_bias",
    "attention_dropout",
    "head_dim",
    "hidden_act",
    "hidden_size",
    "intermediate_size",
    "layer_types",
    "max_position_embeddings",
    "max_window_layers",
    "mlp_bias",
    "num_attention_heads",
    "num_hidden_layers",
    "num_key_value_heads",
    "original_max_position_embeddings",
    "partial_rotary_factor",
    "quantization_config",
    "rms_norm_eps",
    "rope_interleaved",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "sliding_window",
    "tie_word_embeddings",
    "use_sliding_window",
    "vocab_size",
    "is_causal",
    "is_decoder",
    "add_cross_attention",
}
"""Read or held against the only supported value, see ``models.hf_config``."""
_FOLLOWED_OF_EXPERTS = {
    "decoder_sparse_step",
    "mlp_only_layers",
    "moe_intermediate_size",
    "norm_topk_prob",
    "num_experts",
    "num_experts_per_tok",
    "num_local_experts",
}
_FOLLOWED_OF_LINEAR_ATTENTION = {
    "attn_output_gate",
    "full_attention_interval",
    "linear_conv_kernel_dim",
    "linear_key_head_dim",
    "linear_num_key_heads",
    "linear_num_value_heads",
    "linear_value_head_dim",
    "output_gate_type",
    "shared_expert_intermediate_size",
    # the type of a server's states
    "mamba_ssm_dtype",
    # heads that guess several tokens ahead, which no forward pass of the model asks
    "mtp_num_hidden_layers",
    "mtp_use_dedicated_embeddings",
}
_FOLLOWED_WITHOUT_ROPE = {"no_rope_layers", "no_rope_layer_interval"}
_OF_NO_EFFECT = {
    # names, versions and types
    "_attn_implementation",
    "_attn_implementation_autoset",
    "_commit_hash",
    "_name_or_path",
    "dtype",
    "model_type",
    "tokenizer_class",
    "torch_dtype",
    "transformers_version",
    "unsloth_fixed",
    "unsloth_version",
    # code of the folder's own, which is not run
    "auto_map",
    # tokens, which the tokenizer and the generation config say too
    "bos_token_id",
    "decoder_start_token_id",
    "eos_token_id",
    "pad_token_id",
    "sep_token_id",
    # what a forward pass returns, and whether it remembers
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "return_dict",
    "use_cache",
    # the start of training and its losses
    "initializer_range",
    "router_aux_loss_coef",
    # the same products in parts
    "chunk_size_feed_forward",
    "pretraining_tp",
    # heads of other tasks
    "finetuning_task",
    "id2label",
    "label2id",
    "problem_type",
    "task_specific_params",
    # other kinds of models, and other programs
    "is_encoder_decoder",
    "torchscript",
    "use_bfloat16",
    # generation, in configs that are older than generation_config.json
    "bad_words_ids",
    "begin_suppress_tokens",
    "diversity_penalty",
    "do_sample",
    "early_stopping",
    "encoder_no_repeat_ngram_size",
    "exponential_decay_length_penalty",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "length_penalty",
    "max_length",
    "max_new_tokens",
    "min_length",
    "no_repeat_ngram_size",
    "num_beam_groups",
    "num_beams",
    "num_return_sequences",
    "output_scores",
    "prefix",
    "remove_invalid_values",
    "repetition_penalty",
    "return_dict_in_generate",
    "suppress_tokens",
    "temperature",
    "tf_legacy_loss",
    "tie_encoder_decoder",
    "top_k",
    "top_p",
    "typical_p",
}


_OUTER = {
    "architectures",
    "image_token_id",
    "language_model_only",
    "text_config",
    "tie_word_embeddings",
    "video_token_id",
    "vision_config",
    "vision_end_token_id",
    "vision_start_token_id",
}
"""Around the config of a multimodal model's text model."""


def unknown_fields(
    names: Iterable[str],
    experts: bool,
    no_rope_layers: bool = False,
    linear_attention: bool = False,
) -> list[str]:
    """The fields that may change what a model computes in a way that is not known here.

    Args:
        names: of all fields of a config.
        experts: whether the family has routed experts.
        no_rope_layers: whether the family may have layers without rotary embedding.
        linear_attention: whether the family has layers of gated delta nets.
    """
    known = _FOLLOWED | _OF_NO_EFFECT
    known |= _FOLLOWED_OF_EXPERTS if experts else set()
    known |= _FOLLOWED_WITHOUT_ROPE if no_rope_layers else set()
    known |= _FOLLOWED_OF_LINEAR_ATTENTION if linear_attention else set()
    return sorted(set(names) - known)


def unknown_outer_fields(names: Iterable[str]) -> list[str]:
    """As :func:`unknown_fields`, of the config around a text model's."""
    return sorted(set(names) - _OUTER - _OF_NO_EFFECT)
