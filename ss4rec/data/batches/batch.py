"""Packed batches: the tokens of many sequences concatenated, with offsets and without padding.

`PackedBatch` is what a training step takes, `EvalBatch` what full ranking takes; both are made from Arrow tables
as `ss4rec.data.batches.windows` returns them, straight from the offsets and values buffers.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from torch import Tensor

from ss4rec.data.batches.windows import ragged, ranges
from ss4rec.data.sources.rows import CODES
from ss4rec.model.columns import EVENT_CODES

BatchType = TypeVar("BatchType", "PackedBatch", "EvalBatch")


@dataclass(frozen=True)
class PackedBatch:
    """Training windows of one step (one worker's share)."""

    users_S: Tensor
    """User of each window, int64."""
    items_T: Tensor
    """Input items, int64, 1..I."""
    targets_T: Tensor
    """Next items, int64; 0 where the token is context only."""
    gaps_T: Tensor
    """Gaps in seconds, float32."""
    hours_T: Tensor
    """Unix hour in which each token's next item is asked for (`windows.train_windows`), int64."""
    ratings_T: Tensor
    """Rating of each input event, float32."""
    profiles_TF: Tensor
    """Codes of the user's profile at each token (`profiles.read_profiles`), and above `EVENT_CODES` those of columns
    about the event, int64; 0 is unknown, F may be 0. The order of a token's codes does not matter."""
    offsets_S1: Tensor
    """Where sequences begin and end, int64, always on the host."""
    rows_R: Tensor
    """Tokens whose target is not 0, int64: known on the host, so that no step has to wait for the device."""

    @property
    def num_sequences(self) -> int:
        """Number of windows S."""
        return self.offsets_S1.numel() - 1

    @property
    def num_tokens(self) -> int:
        """Number of tokens T."""
        return self.items_T.numel()

    @property
    def num_targets(self) -> int:
        """Number of targets R."""
        return self.rows_R.numel()

    def to(self, device: torch.device | str, non_blocking: bool = False) -> PackedBatch:
        """Return the batch with all tensors but the offsets on `device`."""
        return _to(self, device, non_blocking)


@dataclass(frozen=True, kw_only=True)
class Histories:
    """Packed histories of some users: what ranking and serving give a model."""

    items_T: Tensor
    """Last items of the histories, int64, 1..I."""
    gaps_T: Tensor
    """Gaps in seconds, float32."""
    hours_T: Tensor
    """As in `PackedBatch`."""
    ratings_T: Tensor
    """As in `PackedBatch`."""
    profiles_TF: Tensor
    """As in `PackedBatch`."""
    offsets_S1: Tensor
    """Where histories begin and end, int64, always on the host."""
    seen_X: Tensor
    """Items of the whole history (not cut), user after user (in an `EvalBatch` target after target), in its order,
    int64."""
    seen_offsets_S1: Tensor
    """Where each user's (or target's) `seen_X` begins and ends, int64, always on the host."""


@dataclass(frozen=True, kw_only=True)
class EvalBatch(Histories):
    """Histories of some users and the items that are ranked after them: S targets, each with a history of its own or
    several with one (`windows.target_windows`)."""

    users_S: Tensor
    """User of each target, int64."""
    last_S: Tensor
    """Token after which each target is asked for: the last event before it, int64."""
    targets_S: Tensor
    """Held-out item, int64; 0 for an item that never trained, which counts as a miss."""
    target_times_S: Tensor
    """Time of the held-out event, int64 unix seconds."""
    last_times_S: Tensor
    """Time of the last event of the history, int64 unix seconds."""
    histories_S: Tensor
    """Events before the target (not cut), int64."""
    weights_S: Tensor
    """1 / number of the user's targets, float64: each user counts once in a mean."""

    @property
    def num_sequences(self) -> int:
        """Number of targets S."""
        return self.targets_S.numel()

    @property
    def shares_histories(self) -> bool:
        """Whether some targets share a history."""
        return self.offsets_S1.numel() - 1 < self.num_sequences

    def to(self, device: torch.device | str, non_blocking: bool = False) -> EvalBatch:
        """Return the batch with all tensors but the two offsets on `device`."""
        return _to(self, device, non_blocking)


def collate_train(windows: pa.Table, profiles_UF: npt.NDArray[Any] | None = None) -> PackedBatch:
    """Pack rows of `windows.train_windows` (chunked or sliced as they may be) in their order.

    Args:
        windows: the rows.
        profiles_UF: profile codes of all users, if the data has them.
    """
    items_T, offsets_S1 = ragged(windows["items"])
    targets_T, _ = ragged(windows["targets"])
    gaps_T, _ = ragged(windows["gaps"])
    return PackedBatch(
        users_S=_int64(windows["user"].to_numpy()),
        items_T=_int64(items_T),
        targets_T=_int64(targets_T),
        gaps_T=torch.tensor(gaps_T),
        **_beside(windows, offsets_S1, profiles_UF),
        offsets_S1=_int64(offsets_S1),
        rows_R=torch.from_numpy(np.flatnonzero(targets_T)),
    )


def collate_eval(sequences: pa.Table, profiles_UF: npt.NDArray[Any] | None = None) -> EvalBatch:
    """Pack rows of `windows.target_windows` (chunked or sliced as they may be) in their order; see `collate_train`."""
    items_T, offsets_W1 = ragged(sequences["items"])
    gaps_T, _ = ragged(sequences["gaps"])
    targets_S, targets_W1 = ragged(sequences["targets"])
    per_window_W = np.diff(targets_W1)
    names = ("target_times", "last_times", "histories", "places")
    times_S, last_times_S, histories_S, places_S = (ragged(sequences[name])[0] for name in names)
    seen_X, seen_offsets_W1 = ragged(sequences["seen"])
    places_X, seen_offsets_S1 = ranges(
        np.repeat(seen_offsets_W1[:-1], per_window_W), histories_S.astype(np.int64)
    )
    return EvalBatch(
        users_S=_int64(np.repeat(sequences["user"].to_numpy(), per_window_W)),
        items_T=_int64(items_T),
        gaps_T=torch.tensor(gaps_T),
        **_beside(sequences, offsets_W1, profiles_UF),
        offsets_S1=_int64(offsets_W1),
        last_S=_int64(np.repeat(offsets_W1[:-1], per_window_W) + places_S),
        targets_S=_int64(targets_S),
        target_times_S=_int64(times_S),
        last_times_S=_int64(last_times_S),
        histories_S=_int64(histories_S),
        weights_S=torch.tensor(ragged(sequences["weights"])[0]),
        seen_X=_int64(seen_X[places_X]),
        seen_offsets_S1=_int64(seen_offsets_S1),
    )


def _beside(
    rows: pa.Table, offsets_S1: npt.NDArray[Any], profiles_UF: npt.NDArray[Any] | None
) -> dict[str, Tensor]:
    """Pack what is known of each token beside item and gap."""
    parts = [np.zeros((int(offsets_S1[-1]), 0), np.int64)]
    if profiles_UF is not None:
        parts.append(np.repeat(profiles_UF[rows["user"].to_numpy()], np.diff(offsets_S1), axis=0))
    for name in (name for name in rows.column_names if name.startswith(CODES)):
        codes_T = ragged(rows[name])[0].astype(np.int64)
        parts.append(np.where(codes_T > 0, codes_T + EVENT_CODES, 0)[:, None])
    profiles_TF = np.concatenate(parts, axis=1)
    return {
        "hours_T": _int64(ragged(rows["hours"])[0]),
        "ratings_T": torch.tensor(ragged(rows["ratings"])[0]),
        "profiles_TF": _int64(profiles_TF),
    }


def _int64(values: npt.NDArray[Any]) -> Tensor:
    """Copy into an int64 tensor; a view of an Arrow buffer would be read-only and of another type."""
    return torch.from_numpy(values.astype(np.int64))


def _tensors(batch: PackedBatch | EvalBatch) -> dict[str, Tensor]:
    """Return the tensor fields by name."""
    values = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def _to(batch: BatchType, device: torch.device | str, non_blocking: bool) -> BatchType:
    """Return `batch` with every tensor that is not an offset on `device`."""
    moved: dict[str, Any] = {
        name: tensor.to(device, non_blocking=non_blocking)
        for name, tensor in _tensors(batch).items()
        if not name.endswith("offsets_S1")
    }
    return replace(batch, **moved)
