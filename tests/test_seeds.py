from megatron_dasd.seeds import derive_seed


def test_a_seed_depends_on_all_that_names_the_draw() -> None:
    draws = [(1, "cut", "p"), (2, "cut", "p"), (1, "rollout", "p"), (1, "cut", "q"), (1, "cutp")]
    assert len({derive_seed(*draw) for draw in draws}) == len(draws)
    assert derive_seed(1, "a", "b") != derive_seed(1, "ab")
    assert derive_seed(1, "a", 1) != derive_seed(1, "a", "1")


def test_a_seed_is_the_same_everywhere() -> None:
    assert derive_seed(7, "sample", "p0", 0.6, 3) == derive_seed(7, "sample", "p0", 0.6, 3)
    # the first 63 bits of SHA-256 of '[1, "a"]'
    assert derive_seed(1, "a") == 0x25391C35013B8160
