"""What a stage costs."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """Cost of a stage."""

    stage: str
    kind: str
    gpus: int
    hours: float
    num_tokens: float
    flops: float = 0.0
    disk_bytes: float = 0.0
    cores: int = 0
    """Cores at work; 0: the stage computes on GPUs, or waits for servers."""

    @property
    def gpu_hours(self) -> float:
        """GPUs times hours."""
        return self.gpus * self.hours

    @property
    def tokens_per_second(self) -> float:
        """Rate over all GPUs or servers of the stage; 0 for a stage without hours."""
        return self.num_tokens / (3600 * self.hours) if self.hours else 0.0
