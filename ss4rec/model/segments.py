"""Where sequences begin and end in a packed row of tokens, and the layouts that scans derive from it.

Two derived layouts exist because two kinds of scan need them:

- *time-major* (as in `torch.nn.utils.rnn.PackedSequence`): sequences sorted by falling length, all first events, then
  all second events, ...; step l touches the contiguous rows `starts[l] : starts[l] + active[l]`. No padding.
- *padded* `[S, L]`: for kernels that know only rectangles (mamba-ssm).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class StepOrder:
    """Tokens of some sequences step by step, and the extent of each step (host integers)."""

    order_T: Tensor
    """Index of the packed token that stands at each row."""
    starts: tuple[int, ...]
    """First row of each step; one entry a step."""
    active: tuple[int, ...]
    """Sequences that still run at each step; never rises."""


@dataclass(frozen=True)
class TimeMajor(StepOrder):
    """The step order of all sequences and the way back to packed order."""

    inverse_T: Tensor
    """Index of the time-major row of each packed token."""


class Segments:
    """Offsets of packed sequences.

    Args:
        offsets_S1: int64 `[S + 1]` on the host, rising, first 0; sequences may not be empty.
        device: where the derived index tensors live.

    Raises:
        ValueError: if the offsets do not start at 0 or a sequence is empty.
    """

    def __init__(self, offsets_S1: Tensor, device: torch.device | str = "cpu") -> None:
        offsets = offsets_S1.to("cpu", torch.int64)
        lengths = offsets.diff()
        if offsets.numel() < 2 or int(offsets[0]) != 0 or bool((lengths < 1).any()):
            raise ValueError(f"offsets must start at 0 and rise, got {offsets.tolist()[:8]}...")
        self.host_offsets_S1 = offsets
        self.device = torch.device(device)

    @classmethod
    def from_lengths(cls, lengths: list[int], device: torch.device | str = "cpu") -> Segments:
        """Build from the length of each sequence."""
        return cls(torch.tensor([0, *lengths]).cumsum(0), device)

    @property
    def num_sequences(self) -> int:
        """Number of sequences S."""
        return self.host_offsets_S1.numel() - 1

    @property
    def num_tokens(self) -> int:
        """Number of tokens T."""
        return int(self.host_offsets_S1[-1])

    @cached_property
    def host_lengths_S(self) -> Tensor:
        """Length of each sequence, int64 on the host."""
        return self.host_offsets_S1.diff()

    @cached_property
    def max_len(self) -> int:
        """Length of the longest sequence."""
        return int(self.host_lengths_S.max())

    @cached_property
    def offsets_S1(self) -> Tensor:
        """The offsets as int32 on the device, for kernels."""
        return self.host_offsets_S1.to(self.device, torch.int32, non_blocking=True)

    @cached_property
    def first_S(self) -> Tensor:
        """Index of each sequence's first token, int64 on the device."""
        return self.host_offsets_S1[:-1].to(self.device, non_blocking=True)

    @cached_property
    def last_S(self) -> Tensor:
        """Index of each sequence's last token, int64 on the device."""
        return (self.host_offsets_S1[1:] - 1).to(self.device, non_blocking=True)

    @cached_property
    def positions_T(self) -> Tensor:
        """Place of each token in its own sequence, from 0; int64 on the device."""
        first_T = torch.repeat_interleave(self.host_offsets_S1[:-1], self.host_lengths_S)
        return (torch.arange(self.num_tokens) - first_T).to(self.device, non_blocking=True)

    @cached_property
    def time_major(self) -> TimeMajor:
        """The time-major layout."""
        lengths = self.host_lengths_S
        by_length_S = torch.argsort(lengths, descending=True, stable=True)
        steps_L = torch.arange(self.max_len)
        active_L = (lengths[None, :] > steps_L[:, None]).sum(1)
        rank_S = torch.empty_like(by_length_S)
        rank_S[by_length_S] = torch.arange(self.num_sequences)
        starts_L = torch.cumsum(active_L, 0) - active_L
        sequence_T = torch.repeat_interleave(torch.arange(self.num_sequences), lengths)
        position_T = torch.arange(self.num_tokens) - self.host_offsets_S1[:-1][sequence_T]
        inverse_T = starts_L[position_T] + rank_S[sequence_T]
        order_T = torch.empty_like(inverse_T)
        order_T[inverse_T] = torch.arange(self.num_tokens)
        return TimeMajor(
            order_T.to(self.device),
            tuple(starts_L.tolist()),
            tuple(active_L.tolist()),
            inverse_T.to(self.device),
        )

    @cached_property
    def _groups(self) -> dict[int, tuple[StepOrder, ...]]:
        return {}

    def time_major_groups(self, size: int) -> tuple[StepOrder, ...]:
        """Return the step orders of groups of `size` sequences of similar length.

        A scan that walks through the groups one by one keeps its states in the cache.
        """
        if size not in self._groups:
            whole = self.time_major
            active_L = torch.tensor(whole.active)
            rank_T = torch.arange(self.num_tokens) - torch.repeat_interleave(
                torch.tensor(whole.starts), active_L
            )
            groups = []
            for first in range(0, self.num_sequences, size):
                order_T = whole.order_T[((rank_T >= first) & (rank_T < first + size)).to(self.device)]
                here_L = (active_L - first).clamp(0, size)
                here_L = here_L[here_L > 0]
                starts_L = here_L.cumsum(0) - here_L
                groups.append(StepOrder(order_T, tuple(starts_L.tolist()), tuple(here_L.tolist())))
            self._groups[size] = tuple(groups)
        return self._groups[size]

    @cached_property
    def padded_index_T(self) -> Tensor:
        """Index of each token in the flattened `[S * max_len]` rectangle, int64 on the device."""
        sequence_T = torch.repeat_interleave(torch.arange(self.num_sequences), self.host_lengths_S)
        first_T = self.host_offsets_S1[:-1][sequence_T]
        return (sequence_T * self.max_len + torch.arange(self.num_tokens) - first_T).to(self.device)

    def pad(self, values_TX: Tensor) -> Tensor:
        """Scatter `[T, ...]` into a zero-filled `[S, max_len, ...]` rectangle (sequences at its left)."""
        flat = values_TX.new_zeros(self.num_sequences * self.max_len, *values_TX.shape[1:])
        flat = flat.index_copy(0, self.padded_index_T, values_TX)
        return flat.view(self.num_sequences, self.max_len, *values_TX.shape[1:])

    def unpad(self, values_SLX: Tensor) -> Tensor:
        """Gather `[S, max_len, ...]` back into `[T, ...]`."""
        return values_SLX.flatten(0, 1).index_select(0, self.padded_index_T)


class FixedSegments(Segments):
    """Offsets that only the device knows, in a buffer that is filled anew: for kernels that are replayed as a graph.

    Sequences may be empty. The layouts that are derived on the host do not exist.

    Args:
        offsets_S1: int32 `[S + 1]` on the device, never falling, first 0, last `num_tokens`.
        num_tokens: tokens T.
        max_len: a bound of the sequences' lengths.
    """

    def __init__(self, offsets_S1: Tensor, num_tokens: int, max_len: int) -> None:
        self.device = offsets_S1.device
        # Attributes of the same names take the place of the properties that would be computed on the host.
        self.__dict__ |= {"offsets_S1": offsets_S1, "max_len": max_len}
        self._num_tokens = num_tokens

    @property
    def num_sequences(self) -> int:
        """Number of sequences S, empty ones included."""
        return self.offsets_S1.numel() - 1

    @property
    def num_tokens(self) -> int:
        """Number of tokens T."""
        return self._num_tokens
