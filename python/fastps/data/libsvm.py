"""libsvm text: ``label id:value id:value ... # comment``, read by the compiled parser.

Ids may be any of 0 .. 2^64-1, in any order; one that stands twice in a line counts twice, its
values add up. Blank lines and comments are skipped. ``qid:`` is refused.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fastps import _core
from fastps.data.errors import DataError
from fastps.data.files import Chunk

__all__ = ["LibsvmRows", "lines_have_labels", "read_libsvm"]


@dataclass(frozen=True)
class LibsvmRows:
    """The rows of one chunk.

    Attributes
    ----------
    labels : ndarray of float32, shape (n_rows,)
        As they stand in the file; NaN where a line has none.
    indptr : ndarray of int64, shape (n_rows + 1,)
        Row i has the entries ``indptr[i]:indptr[i + 1]``.
    ids : ndarray of uint64, shape (n_entries,)
        Feature ids.
    values : ndarray of float32, shape (n_entries,)
        Feature values.
    n_bad : int
        Bad lines skipped.
    first_bad : str
        File, line and what is wrong with the first of them; empty if there is none.
    """

    labels: npt.NDArray[np.float32]
    indptr: npt.NDArray[np.int64]
    ids: npt.NDArray[np.uint64]
    values: npt.NDArray[np.float32]
    n_bad: int = 0
    first_bad: str = ""


def read_libsvm(
    chunk: Chunk,
    *,
    skip_bad_lines: bool = False,
    require_labels: bool = True,
    has_labels: bool | None = None,
) -> LibsvmRows:
    """Read the rows of a chunk.

    Parameters
    ----------
    chunk : Chunk
        What to read.
    skip_bad_lines : bool
        Count bad lines and go on.
    require_labels : bool
        Whether each line must begin with a label of -1, 0 or 1. If not, it may begin with any
        number, or with its first feature.
    has_labels : bool, optional
        Instead of that: whether every line begins with a label, any number, or none does.

    Returns
    -------
    LibsvmRows
        The rows.

    Raises
    ------
    DataError
        The file cannot be read, or a line is bad and bad lines are not skipped: file, line number
        and what is wrong.
    """
    data, offset = chunk.read()
    labels, indptr, ids, values, n_bad, bad = _core.parse_libsvm(
        data,
        first_line=1,
        skip_bad_lines=skip_bad_lines,
        require_labels=require_labels,
        has_labels=has_labels,
    )
    first_bad = ""
    if bad is not None:
        line, message = bad
        # Lines before the chunk are only counted when there is something to say about one.
        first_bad = f"{chunk.path}:{chunk.line_number(offset) + line - 1}: {message}"
        if not skip_bad_lines:
            raise DataError(first_bad)
    return LibsvmRows(labels, indptr, ids, values, n_bad, first_bad)


def lines_have_labels(chunk: Chunk) -> bool:
    """Return whether the lines of a chunk begin with labels, or with their first feature.

    Raises
    ------
    DataError
        All begin with ``0:...`` or ``1:...``: with features, or with labels that have a weight,
        which no line may have. Or what `read_libsvm` raises.
    """
    rows = read_libsvm(chunk, require_labels=False)
    if len(rows.labels) == 0 or not np.isnan(rows.labels[0]):
        return True
    begins = rows.indptr[:-1][np.isnan(rows.labels)]
    if not np.all(rows.ids[begins] <= 1):
        return False
    try:
        read_libsvm(chunk, has_labels=True)
    except DataError as error:
        raise DataError(
            f"{error}: a feature, or a label with a weight? Weights are not read; if no line has a "
            "label, give --no-labels"
        ) from None
    return False
