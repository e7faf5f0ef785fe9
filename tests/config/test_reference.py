"""The reference of settings agrees with the settings classes, and leaves none undescribed."""

import pytest

from megatron_dasd.config.pipeline_file import PipelineFile
from megatron_dasd.config.recipes.dasd.fields import Dasd
from megatron_dasd.config.reference import (
    Setting,
    first_sentence,
    settings_classes,
    stage_classes,
)
from megatron_dasd.config.stages import stage_kinds


def setting(class_name: str, name: str) -> Setting:
    (found,) = (one for one in settings_classes()[class_name].settings if one.name == name)
    return found


def test_every_setting_says_what_it_is_for() -> None:
    classes = settings_classes().values()
    silent = [f"{one.name}.{s.name}" for one in classes for s in one.settings if not s.doc]
    assert silent == []
    assert [one.name for one in classes if not one.doc] == []


def test_the_source_and_the_classes_have_the_same_settings() -> None:
    by_name = {one.__name__: one for one in stage_kinds().values()}
    assert list(stage_classes()) == list(stage_kinds())
    for described in stage_classes().values():
        real = by_name[described.name].model_fields
        assert {one.name for one in described.settings} == {*real} - {"kind"}
        required = {one.name for one in described.settings if one.default is None}
        assert required == {n for n, f in real.items() if f.is_required()} - {"kind"}
    for part in (PipelineFile, Dasd):
        settings = settings_classes()[part.__name__].settings
        assert [one.name for one in settings] == list(part.model_fields)


@pytest.mark.parametrize(
    ("class_name", "name", "expected"),
    [
        ("Train", "save_interval", ("integer > 0", "none", "one", None)),
        ("Train", "lr", ("number > 0", "5e-05", "one", None)),
        ("Train", "launch", ("settings Launch", "its own defaults", "one", "Launch")),
        ("Train", "precision", (
            "one of fp32, bf16, fp8-blockwise, fp8-tensorwise, fp8-delayed", "bf16", "one", None,
        )),
        ("SelectDas", "alpha", ("number > 0, < 1", "none", "one", None)),
        ("SampleTeacher", "temperatures", ("list of number > 0", "[0.6, 1.0]", "list", None)),
        ("Evaluate", "models", ("mapping of names to stage or path", None, "mapping", None)),
        ("PreprocessData", "seq_length", ("integer > 0", None, "one", None)),
        ("ThinkingFormat", "open", ("text", "'<think>\\n'", "one", None)),
    ],
)  # fmt: skip
def test_a_setting_in_words(
    class_name: str, name: str, expected: tuple[str, str | None, str, str | None]
) -> None:
    found = setting(class_name, name)
    assert (found.type, found.default, found.shape, found.inner) == expected


def test_inherited_settings_come_last() -> None:
    names = [one.name for one in stage_classes()["preprocess_data"].settings]
    assert names[-3:] == ["seq_length", "pack_align", "seed"]


def test_the_first_sentence() -> None:
    assert first_sentence("Read ``a.b``.  Then\nmore.") == "Read `a.b`"
    assert first_sentence("No stop") == "No stop"
