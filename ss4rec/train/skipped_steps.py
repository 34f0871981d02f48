"""What dense Adam does to a row of a table in steps that give it no gradient, all at once and in closed form.

After a gradient, Adam moves a row for many steps more: its first moment fades as β1^i, and the row moves by
rate · m / (√v + ε) each time. A row that n steps did not touch has moved by

    Σ_i rate_(s+i) / (1 - β1^(s+i)) · β1^i m / (√(β2^i v / (1 - β2^(s+i))) + ε),    i = 1..n,

where s is the step that touched it last. With w_i for what stands before m and c_i for what √v is multiplied with, a
term is w_i m / (c_i √v + ε). All rows that were last touched at s have the same w and c, so two sums are kept for each
s and grow with the steps: W = Σ w_i and H = Σ w_i / c_i. The move is taken to be m H / (√v + ε H / W): exact where ε
is small beside √v, and where it is large. Between the two it is wrong by at most a quarter of the variance of c_i
beside its mean, weighted by w: some 10^-5 once bias corrections have faded.

Weight decay multiplies the row by 1 - rate · decay in each step, before the move; products of these are kept too.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

LONGEST = 4096
"""Steps after which all rows must be brought up to date: so many sums are kept."""


class SkippedSteps:
    """Sums over the steps since all rows were last up to date, by the step that touched a row last.

    All of it is on the device and changed in place, so that steps can be captured in a CUDA graph.

    Args:
        betas: Adam's moment decays; β1² must be less than β2, or a row moves on without end.
        eps: Adam's ε.
        weight_decay: decoupled weight decay.
        device: where the table is.
    """

    def __init__(
        self, betas: tuple[float, float], eps: float, weight_decay: float, device: torch.device
    ) -> None:
        self.betas, self.eps, self.weight_decay = betas, eps, weight_decay
        self.sums_3C = torch.zeros(3, LONGEST + 1, dtype=torch.float64, device=device)
        """W, H, and the logarithm of the product of what weight decay multiplies with, by step."""
        self.steps = torch.zeros((), dtype=torch.int64, device=device)
        """Steps so far; a row that the last one touched has this number."""
        self._numbers_C = torch.arange(LONGEST + 1, device=device)

    def reset(self) -> None:
        """Begin anew: all rows are up to date."""
        self.sums_3C.zero_()
        self.steps.zero_()

    def note(self, rate: Tensor, taken: Tensor, counts: Tensor) -> None:
        """Take down one more step.

        Args:
            rate: its learning rate, float64.
            taken: steps that Adam has taken with it, float64.
            counts: whether it is one: the guard refuses some.
        """
        beta1, beta2 = self.betas
        drift_C, inverse_C, decay_C = self.sums_3C
        now = self.steps + counts
        decay = decay_C.index_select(0, self.steps.view(1)) + torch.log1p(-rate * self.weight_decay) * counts
        since_C = (now - self._numbers_C).clamp_min(1).double()
        share_C = torch.where((self._numbers_C < now) & counts, torch.exp(decay_C - decay), 0.0)
        share_C = share_C * (rate / (1 - beta1**taken))
        drift_C += share_C * beta1**since_C
        inverse_C += share_C * (beta1 / beta2**0.5) ** since_C * (1 - beta2**taken).sqrt()
        decay_C.index_copy_(0, now.view(1), decay)
        self.steps.copy_(now)

    def catch_up(self, old: Sequence[Tensor], last_U: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return rows and both moments as dense Adam would have them now.

        Args:
            old: rows and both moments as they were after the step that touched them last.
            last_U: number of that step.
        """
        rows_UD, mean_UD, square_UD = old
        kind = rows_UD.dtype
        skipped_U = self.steps - last_U
        drift_U, inverse_U, decay_U = self.sums_3C.index_select(1, last_U)
        keep_U = torch.exp(self.sums_3C[2].index_select(0, self.steps.view(1)) - decay_U)
        eps_U = self.eps * torch.where(drift_U > 0, inverse_U / drift_U, 1.0)
        inverse_U1, eps_U1, keep_U1 = (x.to(kind)[:, None] for x in (inverse_U, eps_U, keep_U))
        fade_U1, fade_square_U1 = ((beta ** skipped_U.double()).to(kind)[:, None] for beta in self.betas)
        moved_UD = (rows_UD - inverse_U1 * mean_UD / (square_UD.sqrt() + eps_U1)) * keep_U1
        return moved_UD, mean_UD * fade_U1, square_UD * fade_square_U1
