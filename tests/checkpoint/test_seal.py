from pathlib import Path

import pytest

from megatron_dasd.checkpoint.seal import SEAL, damage, is_sealed, write_seal


@pytest.fixture
def sealed(tmp_path: Path) -> Path:
    (tmp_path / "__0_0.distcp").write_bytes(b"weights")
    (tmp_path / ".metadata").write_bytes(b"where")
    assert not is_sealed(tmp_path)
    assert damage(tmp_path) is None
    write_seal(tmp_path)
    assert is_sealed(tmp_path)
    return tmp_path


def test_untouched(sealed: Path) -> None:
    assert damage(sealed) is None
    before = (sealed / SEAL).read_bytes()
    write_seal(sealed)
    assert (sealed / SEAL).read_bytes() == before


def test_what_is_wrong_is_named(sealed: Path) -> None:
    weights = sealed / "__0_0.distcp"
    weights.write_bytes(b"weightS")
    assert damage(sealed) == f"{weights}: other content than when it was saved"
    weights.write_bytes(b"weigh")
    assert damage(sealed) == f"{weights}: 5 bytes, 7 when it was saved"
    weights.unlink()
    assert damage(sealed) == f"{weights}: missing"
    (sealed / SEAL).write_text("{")
    assert damage(sealed) == f"{sealed / SEAL}: damaged"
