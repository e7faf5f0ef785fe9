"""Preprocessing, packing, opening."""

SEQ_LENGTH = 65_536
PACK_ALIGN = 64
SHORTEST, SIGMA = 144, 0.8
CORPUS = {
    0.6: {
        "math": (45_400, 19.2),
        "code": (20_100, 18.5),
        "science": (19_800, 7.4),
        "instructions": (19_600, 2.7),
    },
    1.0: {
        "math": (103_300, 23.2),
        "code": (91_300, 27.4),
        "science": (65_200, 10.4),
        "instructions": (70_000, 2.7),
    },
}
"""Documents and mean length in thousands of tokens, by temperature and domain: the report's."""
PACKING_LIMIT_SECONDS = 10.0
MIN_FILL = 0.995
TEXT_BYTES = 300_000_000
PREPROCESSING_TIMES = 7.0
NUM_INDEXED = 10_000_000
OPENING_LIMIT_SECONDS = 2.0
