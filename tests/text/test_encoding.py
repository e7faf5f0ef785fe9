from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from megatron_dasd.errors import UserError
from megatron_dasd.text.encoding import (
    byte_alphabet,
    encode,
    load_tokenizer,
    token_bytes,
    token_num_bytes,
)

END = 2  # of the shared tokenizer


def bpe(*merges: tuple[bytes, bytes]) -> PreTrainedTokenizerFast:
    """All bytes, by value, then one entry a merge: ids 256, 257, ..."""
    character = {byte: name for name, byte in byte_alphabet().items()}

    def written(piece: bytes) -> str:
        return "".join(character[byte] for byte in piece)

    pieces = [bytes([byte]) for byte in range(256)] + [a + b for a, b in merges]
    backend = Tokenizer(
        models.BPE(
            vocab={written(piece): i for i, piece in enumerate(pieces)},
            merges=[(written(a), written(b)) for a, b in merges],
        )
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend)


def test_byte_alphabet_is_gpt2s() -> None:
    alphabet = byte_alphabet()
    assert sorted(alphabet.values()) == list(range(256))
    assert {name: alphabet[name] for name in "aĠĊé"} == {"a": 97, "Ġ": 32, "Ċ": 10, "é": 0xE9}
    assert alphabet["Ń"] == 0xAD  # the last of the 68 that are not printable


def test_bytes_of_tokens_that_cut_a_character() -> None:
    # "日" is e6 97 a5: its first two bytes are one token, the third one of its own
    tokenizer = bpe((b"\xe6", b"\x97"), (b"a", b"b"))
    ids = encode(tokenizer, "ab日")
    assert ids == [257, 256, 0xA5]
    assert token_bytes(tokenizer, ids) == [b"ab", b"\xe6\x97", b"\xa5"]
    assert token_num_bytes(tokenizer, ids) == [2, 2, 1]


def test_special_tokens_add_nothing_and_other_added_tokens_their_text() -> None:
    tokenizer = bpe()
    tokenizer.add_special_tokens({"eos_token": "<|end|>"})  # 256
    tokenizer.add_tokens(["<think>"])  # 257
    ids = encode(tokenizer, "<think>a<|end|>")
    assert ids == [257, 97, 256]
    assert token_bytes(tokenizer, ids) == [b"<think>", b"a", b""]


def test_ids_beyond_the_vocabulary_add_nothing() -> None:
    assert token_bytes(bpe(), [97, 9999]) == [b"a", b""]


def test_special_tokens_in_written_text_are_text(tokenizer: PreTrainedTokenizerFast) -> None:
    assert encode(tokenizer, "<|im_end|>") == [END]
    spelled = encode(tokenizer, "<|im_end|>", parse_special=False)
    assert b"".join(token_bytes(tokenizer, spelled)) == b"<|im_end|>"
    assert END not in spelled


def test_load_leaves_normalisation_out(tmp_path: Path) -> None:
    saved = bpe()
    saved.backend_tokenizer.normalizer = normalizers.NFC()
    saved.save_pretrained(tmp_path)
    decomposed = "e\u0301"
    assert len(encode(saved, decomposed)) == 2  # é in one character
    loaded = load_tokenizer(tmp_path)
    assert b"".join(token_bytes(loaded, encode(loaded, decomposed))) == decomposed.encode()


def test_load_refuses_a_tokenizer_of_words(tmp_path: Path) -> None:
    backend = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    PreTrainedTokenizerFast(tokenizer_object=backend).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="not a byte-level tokenizer"):
        load_tokenizer(tmp_path)


def test_load_names_the_folder_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"{tmp_path}: no tokenizer"):
        load_tokenizer(tmp_path)
