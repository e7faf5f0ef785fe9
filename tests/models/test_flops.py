from megatron_dasd.models.flops import products_of
from tests.checkpoint.test_names import architecture


def test_a_delta_net_counts_its_projections_its_convolution_and_its_state() -> None:
    # hidden 8; 2 key heads of 3 channels, 4 value heads of 5; the second layer is attention
    products = products_of(architecture("Qwen3_5ForCausalLM"))
    projections = 8 * ((2 * 6 + 20) + 20 + 4 + 4) + 20 * 8
    convolution = 4 * (2 * 6 + 20)
    # for every value head: read for the key, written, read for the query, 3 x 5 channels each
    state = 4 * 3 * (3 * 5)
    assert products.linear_products == projections + convolution + state
    # 4 heads of 1 channel: queries, their gates and the output; 2 key-value heads
    attention = 8 * (4 + 4 + 4 + 2 + 2)
    feed_forward = 2 * 3 * 8 * 6
    assert products.weights_met == products.linear_products + attention + feed_forward + 8 * 130
    # only attention's work grows with the square of a document's length
    assert products.training_flops(0, 100) == 6 * 1 * 4 * 100


def test_a_shared_expert_is_met_by_every_token() -> None:
    dense = products_of(architecture("Qwen3_5ForCausalLM"))
    experts = products_of(architecture("Qwen3_5MoeForCausalLM"))
    # 2 of 3 experts of 4 channels and the shared one of 7, behind a router and a gate
    routed = 2 * (3 * 8 * (2 * 4 + 7) + 8 * (3 + 1))
    assert experts.weights_met - routed == dense.weights_met - 2 * 3 * 8 * 6
