"""The settings of any stage, told apart by their ``kind``."""

from typing import Annotated

from pydantic import Field

from megatron_dasd.config.data import PreprocessData, PreprocessText
from megatron_dasd.config.evaluation import Evaluate, Report
from megatron_dasd.config.selection import FilterResponses, ScoreStudent, SelectDas
from megatron_dasd.config.sources import (
    ImportGguf,
    ImportResponses,
    MakePrompts,
    PruneLayers,
    RandomModel,
    WorkedSums,
)
from megatron_dasd.config.teacher import (
    ContinueTeacher,
    KeepRollouts,
    RollOutStudent,
    SampleTeacher,
    ScoreTeacher,
    ScoreTopk,
)
from megatron_dasd.config.training import ExportHf, ImportHf, Train, VerifyConversion

StageSettings = Annotated[
    ImportGguf
    | RandomModel
    | PruneLayers
    | ImportHf
    | MakePrompts
    | ImportResponses
    | WorkedSums
    | SampleTeacher
    | ScoreTeacher
    | FilterResponses
    | ScoreStudent
    | SelectDas
    | PreprocessText
    | PreprocessData
    | ScoreTopk
    | Train
    | ExportHf
    | VerifyConversion
    | RollOutStudent
    | KeepRollouts
    | ContinueTeacher
    | Evaluate
    | Report,
    Field(discriminator="kind"),
]
