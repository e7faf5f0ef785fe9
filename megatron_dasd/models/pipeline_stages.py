"""How a pipeline divides a model's layers among its stages (pure)."""

from dataclasses import dataclass

from megatron_dasd.config.base import Launch
from megatron_dasd.errors import UserError


@dataclass(frozen=True)
class Stages:
    """Pipeline stages: evenly many layers each, but for the first and the last where given."""

    size: int = 1
    """Ranks of the pipeline."""
    virtual: int = 1
    """Model chunks of a rank."""
    first: int | None = None
    """Layers of the first rank; None: as many as the others."""
    last: int | None = None
    """Layers of the last rank; None: as many as the others."""

    def layers(self, num_layers: int) -> list[int]:
        """Layers of each rank.

        Raises:
            UserError: they cannot be divided so.
        """
        ends = [x for x in (self.first, self.last) if x is not None]
        if ends and self.size == 1:
            raise UserError("first_stage_layers and last_stage_layers need pipeline_parallel > 1")
        middle, ranks = num_layers - sum(ends), self.size - len(ends)
        if ends and (middle < ranks or (not ranks and middle)):
            raise UserError(
                f"first_stage_layers and last_stage_layers ({' + '.join(map(str, ends))}) leave "
                f"{middle} of the model's {num_layers} layers to {ranks} other pipeline stages"
            )
        if middle % (ranks or 1):
            raise UserError(
                f"pipeline_parallel x virtual_pipeline {self.size * self.virtual} does not divide "
                f"the model's layers ({num_layers})"
                if not ends
                else f"pipeline_parallel: {ranks} middle stages do not divide the {middle} layers "
                "that first_stage_layers and last_stage_layers leave"
            )
        each = [middle // ranks] * ranks if ranks else []
        first = [] if self.first is None else [self.first]
        last = [] if self.last is None else [self.last]
        return first + each + last

    def check(self, num_layers: int) -> None:
        """Make sure that every stage gets whole layers, and every model chunk of it as many.

        Raises:
            UserError: naming what cannot be divided.
        """
        for layers in self.layers(num_layers):
            if layers % self.virtual:
                raise UserError(
                    f"pipeline_parallel x virtual_pipeline {self.size * self.virtual} does not "
                    f"divide the model's layers ({num_layers})"
                    if self.first is self.last is None
                    else f"virtual_pipeline {self.virtual} does not divide the {layers} layers "
                    "of a pipeline stage"
                )


def stages_of(launch: Launch) -> Stages:
    """The pipeline of a layout."""
    return Stages(
        launch.pipeline_parallel,
        launch.virtual_pipeline,
        launch.first_stage_layers,
        launch.last_stage_layers,
    )
