"""The file of a linear model: a numpy .npz archive, read and written without pickle.

=============  ================  ===================================================================
Name           Type              Meaning
=============  ================  ===================================================================
``keys``       uint64 (n,)       feature keys, increasing; features not among them have weight 0
``weights``    float32 (n,)      their weights, none of which is 0
``bias``       float32 ()        added to every margin
``hash_bits``  int64 ()          0: keys are the feature ids; B: the top B bits of the mixed ids
=============  ================  ===================================================================

``bias`` and ``hash_bits`` may be missing and are 0 then.
"""

from __future__ import annotations

import io
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fastps.data.blocks import Block
from fastps.data.errors import DataError
from fastps.output import atomic_output

__all__ = ["LinearModel", "load_model", "save_model"]


@dataclass(frozen=True)
class LinearModel:
    """Weights by key; see the module for the fields."""

    keys: npt.NDArray[np.uint64]
    weights: npt.NDArray[np.float32]
    bias: float = 0.0
    hash_bits: int | None = None

    @classmethod
    def from_rows(
        cls,
        keys: npt.NDArray[np.uint64],
        weights: npt.NDArray[np.float32],
        bias: float = 0.0,
        hash_bits: int | None = None,
    ) -> LinearModel:
        """Make a model of rows in any order: sorts them and leaves zero weights out.

        Parameters
        ----------
        keys : ndarray of uint64, shape (n,)
            Distinct.
        weights : ndarray of float32, shape (n,)
            Their weights.
        bias, hash_bits : float, int or None
            See the module.
        """
        kept = np.flatnonzero(weights)
        order = kept[np.argsort(keys[kept])]
        return cls(keys[order], weights[order], bias, hash_bits)

    def lookup(self, keys: npt.NDArray[np.uint64]) -> npt.NDArray[np.float32]:
        """Return the weights of `keys`, 0 for unknown ones; shape of `keys`."""
        if len(self.keys) == 0:
            return np.zeros(keys.shape, np.float32)
        position = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        known = self.keys[position] == keys
        weights: npt.NDArray[np.float32] = np.where(known, self.weights[position], np.float32(0))
        return weights

    def margins(self, block: Block) -> npt.NDArray[np.float32]:
        """Return the log-odds of each row of a block read with this model's `hash_bits`."""
        margins = block.matrix.margins(self.lookup(block.keys))
        margins += np.float32(self.bias)
        return margins


def save_model(path: str | Path, model: LinearModel) -> None:
    """Write a model; `path` holds either the whole of it or what it held before."""
    with atomic_output(path) as file:
        np.savez(
            file,
            keys=model.keys,
            weights=model.weights,
            bias=np.float32(model.bias),
            hash_bits=np.int64(model.hash_bits or 0),
        )


def load_model(path: str | Path) -> LinearModel:
    """Read a model.

    Raises
    ------
    DataError
        The file does not exist or is not a model file.
    """
    try:
        # An archive is read from its end, which a pipe has only once it was read.
        source = path if Path(path).is_file() else io.BytesIO(Path(path).read_bytes())
        with np.load(source, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, TypeError, AttributeError, EOFError, KeyError, zlib.error) as error:
        raise _no_model(path) from error
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise _no_model(path) from error
    return _check(path, arrays)


def _no_model(path: str | Path) -> DataError:
    # Not numpy's words, which advise to unpickle what may come from anybody.
    return DataError(
        f"{path}: is not a model file, or a damaged one; give the .npz that 'fastps train' wrote"
    )


def _check(path: str | Path, arrays: dict[str, npt.NDArray[np.generic]]) -> LinearModel:
    def refuse(reason: str) -> DataError:
        return DataError(f"{path}: is not a model file of 'fastps train lr': {reason}")

    missing = {"keys", "weights"} - arrays.keys()
    if missing:
        raise refuse(f"it has no array {' and '.join(sorted(missing))}")
    keys, weights = arrays["keys"], arrays["weights"]
    bias = arrays.get("bias", np.zeros((), np.float32))
    hash_bits = arrays.get("hash_bits", np.zeros((), np.int64))
    if keys.dtype != np.uint64 or weights.dtype != np.float32:
        raise refuse(f"keys are {keys.dtype} and weights {weights.dtype}, not uint64 and float32")
    if keys.ndim != 1 or keys.shape != weights.shape or bias.shape != () or hash_bits.shape != ():
        raise refuse("its arrays do not have the shapes (n,), (n,), () and ()")
    if bias.dtype.kind != "f" or hash_bits.dtype.kind not in "iu":
        raise refuse(f"bias is {bias.dtype} and hash_bits {hash_bits.dtype}")
    if not (np.isfinite(weights.astype(np.float32)).all() and np.isfinite(float(bias.item()))):
        raise refuse("a weight or the bias is not finite")
    bits = int(hash_bits.item())
    if not 0 <= bits <= 64:
        raise refuse(f"hash_bits is {bits}, not 0 to 64")
    return LinearModel.from_rows(
        keys.astype(np.uint64), weights.astype(np.float32), float(bias.item()), bits or None
    )
