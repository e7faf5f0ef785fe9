"""``benchmarks.json`` and ``benchmarks.html`` of an evaluate stage; neither holds a question."""

from collections.abc import Mapping

from megatron_dasd.artifacts import StageFolder, write_atomic
from megatron_dasd.benchmarks.published import PUBLISHED, SOURCE
from megatron_dasd.config.evaluation import Evaluate
from megatron_dasd.evaluation.by_benchmark import BenchmarkFigures
from megatron_dasd.evaluation.charts import benchmark_chart
from megatron_dasd.pages.render import render
from megatron_dasd.printing import say


def write_page(
    settings: Evaluate, folder: StageFolder, figures: Mapping[str, BenchmarkFigures]
) -> None:
    """Write both files, and print a line for each model and benchmark."""
    published = {
        row: {name: values[name] for name in figures if name in values}
        for row, values in PUBLISHED.items()
    }
    published = {row: values for row, values in published.items() if values}
    folder.write_json(
        "benchmarks.json", {"benchmarks": figures, "published": published, "source": SOURCE}
    )
    page = render(
        "evaluation",
        "benchmarks.html.j2",
        figures=figures,
        models=list(settings.models),
        published=published,
        source=SOURCE,
        settings=settings,
        chart=benchmark_chart(figures),
    )
    write_atomic(folder.path / "benchmarks.html", page.encode())
    for line in benchmark_lines(figures):
        say(f"    {line}")


def benchmark_lines(figures: Mapping[str, BenchmarkFigures]) -> list[str]:
    """Write the accuracies as text, a line for each benchmark and model."""
    lines = []
    for benchmark in figures.values():
        for name, model in benchmark["models"].items():
            found = model["new_questions"]
            line = f"{benchmark['title']} {name}: {100 * found['mean']:.1f} %"
            if found["low"] is not None and found["high"] is not None:
                line += f" ({100 * found['low']:.1f} to {100 * found['high']:.1f})"
            lines.append(f"{line}, {model['num_questions']} questions")
    return lines
