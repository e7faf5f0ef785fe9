"""What the report measured, to stand beside one's own figures."""

SOURCE = (
    "DASD technical report, arXiv 2601.09088, the table of Qwen3-4B-Instruct-2507: mean accuracy "
    "in percent of 64 answers a question at temperature 1.0 and top-p 1.0"
)
PUBLISHED: dict[str, dict[str, float]] = {
    "start": {"aime25": 47.4, "livecodebench_v6": 35.1, "gpqa_diamond": 62.5},
    "+ low temperature": {
        "aime24": 84.2,
        "aime25": 74.0,
        "livecodebench_v5": 56.6,
        "livecodebench_v6": 50.6,
        "gpqa_diamond": 67.7,
    },
    "+ high temperature": {
        "aime24": 87.7,
        "aime25": 83.0,
        "livecodebench_v5": 68.4,
        "livecodebench_v6": 67.2,
        "gpqa_diamond": 67.6,
    },
    "+ mixed policy": {
        "aime24": 88.5,
        "aime25": 83.3,
        "livecodebench_v5": 69.3,
        "livecodebench_v6": 67.5,
        "gpqa_diamond": 68.4,
    },
}
"""Accuracy in percent by the stage of training and the benchmark."""
