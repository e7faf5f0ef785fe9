"""Groups of documents that training reports separately: by domain, by temperature.

A data set numbers its own names from 1 (``DataMeta.groups``, ``document_groups.npy``).  Data sets
in one training need one numbering, since all ranks and rows must log the same names.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from megatron_dasd.data.meta import GROUPS, DataMeta
from megatron_dasd.records_io import open_parquet, parquet_errors, record_files

MAX_NAMES = 64
"""Most names of a kind, the most frequent ones: each costs a curve and a sum over all ranks."""

Names = Mapping[str, Sequence[str]]
"""Names of the groups by kind, in the order of their numbers from 1."""


def groups_of_documents(stage: Path) -> tuple[dict[str, list[str]], npt.NDArray[np.uint16]]:
    """Number the groups of a stage's ``Document`` records.

    Returns:
        The names; and ``[documents, kinds]`` numbers, 0: in no group.
    """
    table = pa.concat_tables(_group_columns(file) for file in record_files(stage))
    names: dict[str, list[str]] = {}
    columns = []
    for kind in GROUPS:
        column = table.column(kind)
        counts = {pair["values"].as_py(): pair["counts"].as_py() for pair in column.value_counts()}
        counts.pop(None, None)
        frequent = sorted(counts, key=lambda value: (-counts[value], value))[:MAX_NAMES]
        values = pa.array(sorted(frequent), column.type)
        names[kind] = [_named(value) for value in values.to_pylist()]
        places = pc.fill_null(pc.add(pc.index_in(column, values), 1), 0)
        columns.append(places.to_numpy().astype(np.uint16))
    return names, np.stack(columns, axis=1)


def _group_columns(file: Path) -> pa.Table:
    with parquet_errors(file), open_parquet(file, memory_map=True) as parquet:
        return parquet.read(columns=list(GROUPS))


def all_names(metas: Iterable[DataMeta]) -> dict[str, list[str]]:
    """The names of several data sets joined; a kind that none of them has is left out."""
    found = [meta.groups for meta in metas]
    union = {kind: {name for groups in found for name in groups.get(kind, [])} for kind in GROUPS}
    return {kind: sorted(names) for kind, names in union.items() if names}


def renumbered(own: Names, target: Names) -> dict[str, npt.NDArray[np.int16]]:
    """For each kind of ``target``, its number for each of a data set's own numbers, 0 first."""
    places = {kind: {name: i for i, name in enumerate(names, 1)} for kind, names in target.items()}
    return {
        kind: np.array([0, *(place.get(name, 0) for name in own.get(kind, []))], np.int16)
        for kind, place in places.items()
    }


def _named(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:g}"
