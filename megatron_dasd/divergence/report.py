"""``report.html`` and ``report.json`` of a selection, in its stage's folder."""

from megatron_dasd.artifacts import StageFolder, write_atomic
from megatron_dasd.config.selection import SelectDas
from megatron_dasd.divergence.charts import density_chart, sentence_chart
from megatron_dasd.pages.charts import class_chart, gap_chart
from megatron_dasd.pages.figures import SelectionFigures
from megatron_dasd.pages.render import render

REPORT = "report"


def write_report(folder: StageFolder, settings: SelectDas, figures: SelectionFigures) -> None:
    """Write both files; the JSON holds the figures as they are."""
    folder.write_json(f"{REPORT}.json", figures)
    page = render("divergence", f"{REPORT}.html.j2", **_page_values(settings, figures))
    write_atomic(folder.path / f"{REPORT}.html", page.encode())


def _page_values(settings: SelectDas, figures: SelectionFigures) -> dict[str, object]:
    temperatures = figures["sentence_classes_by_temperature"]
    rows = {"all candidates": figures["sentence_classes"]}
    rows |= {f"T = {t}": counts for t, counts in temperatures.items()}
    rows["kept"] = figures["sentence_classes_kept"]
    rows["dropped"] = figures["sentence_classes_dropped"]
    by_domain = {
        f"{domain}, T = {t}": counts
        for domain, found in figures["sentence_classes_by_domain"].items()
        for t, counts in found.items()
    }
    edges = figures["gap_histogram"]["edges"]
    probability = figures["response_probability"]
    densities = {
        f"T = {t}, all candidates": found["all"] for t, found in probability["counts"].items()
    }
    teacher = {
        f"T = {t}, under the teacher": {
            which: found[which]["teacher"] for which in ("kept", "dropped")
        }
        for t, found in probability["counts"].items()
    }
    return {
        "settings": settings,
        "figures": figures,
        "classes": list(figures["sentence_classes"]),
        "class_chart": class_chart(rows),
        "domain_chart": class_chart(by_domain) if by_domain else "",
        "gap_charts": {
            t: gap_chart({"edges": edges, "counts": counts}, settings.beta)
            for t, counts in figures["gap_histogram_by_temperature"].items()
        },
        "density_chart": density_chart(probability["edges"], densities),
        "kept_chart": density_chart(probability["edges"], teacher),
        "sentence_charts": [
            sentence_chart(example["sentences"]) if example["sentences"] else ""
            for example in figures["examples"]
        ],
    }
