"""What the scoring program is given to do."""

from pathlib import Path

from megatron_dasd.config.selection import ScoreStudent
from megatron_dasd.device.payload import Payload


class ScoringPayload(Payload):
    """Parts of responses whose tokens the student is to score."""

    settings: ScoreStudent
    responses: Path
    """Folder or file of the records."""
    few_shot: Path | None
    """Messages before each prompt, as ``text.chat.read_few_shot`` takes them."""
    model: Path
    """Hugging Face folder: architecture and tokenizer."""
    checkpoint: Path
    """What Megatron's ``--load`` takes."""
    out: Path
    """Folder of the stage, which the parts are written into."""
    parts: list[int]
    """Numbers of the parts that are still to be scored."""
