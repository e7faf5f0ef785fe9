"""What stage kinds make and read, as declared, against what records can be read as."""

from collections.abc import Iterator
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel

from megatron_dasd.config.base import Settings
from megatron_dasd.config.connections import check_readable, reference_fields
from megatron_dasd.config.pipeline import load_pipeline
from megatron_dasd.config.stages import stage_kinds
from megatron_dasd.errors import UserError
from megatron_dasd.records_io import parse_record
from tests.full_records import RECORDS

KINDS = stage_kinds()
INPUTS = [
    (kind, setting)
    for kind, settings in KINDS.items()
    for setting in reference_fields(settings.model_construct())
]
"""Every input of every kind."""


def readable(kind: str, setting: str, maker: str) -> bool:
    """Whether an input may name a stage of another kind."""
    none = dict.fromkeys(KINDS[kind].model_fields)
    settings = KINDS[kind].model_construct(**none | {"kind": kind, setting: ["x"]})
    try:
        check_readable("", settings, {"x": (maker, KINDS[maker].stage.makes)})
    except UserError:
        return False
    return True


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_declares_what_it_makes_and_reads(kind: str) -> None:
    assert KINDS[kind].stage.makes is not None
    declared = KINDS[kind].stage.reads
    inputs = {setting for one, setting in INPUTS if one == kind}
    assert declared.keys() == inputs | set(tables_with_inputs(KINDS[kind]))


def tables_with_inputs(settings: type[Settings]) -> Iterator[str]:
    """Names of the settings that are tables of settings with inputs, as ``teachers``."""
    for name, field in settings.model_fields.items():
        for inner in get_args(field.annotation):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from [name] if any(reference_fields(inner.model_construct())) else []


@pytest.mark.parametrize(("kind", "setting"), INPUTS)
def test_an_input_takes_the_stages_whose_records_it_can_read(kind: str, setting: str) -> None:
    reads = KINDS[kind].stage.reads[setting]
    for maker, settings in KINDS.items():
        made = settings.stage.makes
        assert made is not None
        if made in RECORDS and isinstance(reads, type) and is_dataclass(reads):
            row = asdict(RECORDS[made])
            try:
                can = isinstance(parse_record(reads, row), reads)
            except ValueError:
                can = False
        else:
            can = issubclass(made, reads)
        assert readable(kind, setting, maker) == can, maker


HEAD = "name: test\nrun_dir: runs/test\nstages:\n"
MODEL = (
    "  model: {kind: random_model, num_layers: 1, hidden_size: 8, num_attention_heads: 2, "
    "num_key_value_heads: 1, intermediate_size: 8}\n"
)
IMPORTED = "  imported: {kind: import_responses, files: [c.jsonl], temperature: 1.0}\n"
ROUND = (
    "  start: {kind: import_hf, model: model}\n"
    "  text: {kind: preprocess_text, model: model, packages: {a: b}, seq_length: 256}\n"
    "  last:\n    kind: train\n    model: model\n    checkpoint: start\n    data: text\n"
    "    on_policy:\n      stages:\n"
    "        rolled: {kind: roll_out_student, model: weights, responses: R, max_prompts: 1}\n"
    "        rows: {kind: preprocess_data, model: model, responses: rolled, seq_length: 256}\n"
)


@pytest.mark.parametrize(
    ("stages", "told"),
    [
        (
            IMPORTED
            + MODEL
            + "  packed: {kind: preprocess_data, model: model, responses: imported, "
            "seq_length: 256}\n",
            "stages.packed.responses: imported (import_responses) makes responses, but "
            "preprocess_data reads filtered responses (of filter_responses, keep_rollouts, "
            "score_student, select_das, worked_sums)",
        ),
        (
            MODEL
            + "  prompts: {kind: make_prompts, tasks: [{generator: chain_sum, size: 2}]}\n"
            + "  filter: {kind: filter_responses, responses: [prompts], student: model, "
            "max_length: 8}\n",
            "stages.filter.responses: prompts (make_prompts) makes prompts, but filter_responses "
            "reads responses (of ",
        ),
        (
            IMPORTED + "  student: {kind: prune_layers, model: imported, num_layers_removed: 1}\n",
            "stages.student.model: imported (import_responses) makes responses, but prune_layers "
            "reads a model (of export_hf, import_gguf, prune_layers, random_model)",
        ),
        (
            IMPORTED
            + "  again: {kind: import_responses, files: [imported], temperature: 1.0}\n",
            "stages.again.files: imported (import_responses) makes responses, but "
            "import_responses reads files, not the result of a stage",
        ),
        (
            IMPORTED
            + "  asked: {kind: evaluate, prompts: c.jsonl, models: {a: imported}, "
            "max_new_tokens: 1}\n",
            "stages.asked.models.a: imported (import_responses) makes responses, but evaluate "
            "reads a model (of ",
        ),
        (
            MODEL + ROUND.replace("responses: R", "responses: c.jsonl"),
            "stages.last.on_policy.stages.rows.responses: rolled (roll_out_student) makes "
            "rollouts, but preprocess_data reads filtered responses (of ",
        ),
        (
            MODEL + ROUND.replace("responses: R", "responses: weights"),
            "stages.last.on_policy.stages.rolled.responses: weights (the training) makes a model, "
            "but roll_out_student reads filtered responses (of ",
        ),
        (
            IMPORTED + "cluster: {servers: {one: {command: [serve], model: imported}}}\n",
            "cluster.servers.one.model: imported (import_responses) makes no model",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_said_when_the_file_is_read(
    stages: str, told: str, tmp_path: Path
) -> None:
    (tmp_path / "c.jsonl").touch()
    path = tmp_path / "pipeline.yaml"
    path.write_text(HEAD + stages)
    with pytest.raises(UserError) as caught:
        load_pipeline(path)
    assert str(caught.value).startswith(f"{path}: {told}")
    assert "\n" not in str(caught.value)
