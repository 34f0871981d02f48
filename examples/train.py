"""SS4Rec from top to bottom in one file: data, model, loop, ranking. No Ray, no callbacks, no configuration files.

    python examples/train.py [EPOCHS]

`ss4rec train` does the same with checkpoints, resume, several workers and a proper evaluation. This file is for reading
and for experiments: change anything. Names end in their shape: T tokens of a packed batch, S users, D width.
"""

import sys
import tempfile
from pathlib import Path

import torch

from ss4rec.config import DataConfig, ModelConfig
from ss4rec.data.batches.source import LocalSource
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.synth.generate import synth
from ss4rec.evaluation.metrics import hit_rate, ndcg
from ss4rec.evaluation.ranks import target_ranks
from ss4rec.model.last_state import score_last
from ss4rec.model.losses import cross_entropy
from ss4rec.model.segments import Segments
from ss4rec.model.ss4rec import SS4Rec


def train(folder: Path, epochs: int, device: str) -> SS4Rec:
    """Train on every event but the last two of each user."""
    torch.manual_seed(0)
    data = PreparedFolder.open(folder)
    source = LocalSource(data, DataConfig(max_len=64, overlap=16), batch_size=32, seed=0)
    model = SS4Rec(ModelConfig(dim=32, blocks=1, gap_map="log", dt_init="mamba"), data.manifest.items).to(
        device
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for epoch, step, batch in source.train_batches(start_epoch=0, start_step=0, end_epoch=epochs):
        model.train()
        batch = batch.to(device)
        segments = Segments(
            batch.offsets_S1, device
        )  # sequences are packed behind one another, without padding
        hidden_TD = model.encode(batch.items_T, batch.gaps_T, segments)  # one state after every event
        loss = cross_entropy(hidden_TD, model.item_matrix(), batch.targets_T) / batch.num_targets
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step == source.steps_per_epoch(epoch) - 1:
            hr, gain = rank(model, source, "valid", device)
            print(f"epoch {epoch + 1}: loss {loss:.3f}, validation HR@10 {hr:.4f}, NDCG@10 {gain:.4f}")
    print("test HR@10 {:.4f}, NDCG@10 {:.4f}".format(*rank(model, source, "test", device)))
    return model


@torch.no_grad()
def rank(model: SS4Rec, source: LocalSource, split: str, device: str) -> tuple[float, float]:
    """Rank every item for every user; return HR@10 and NDCG@10 of the held-out items, seen items kept."""
    model.eval()
    ranks = []
    for batch in source.eval_batches(split, 256):
        kept_S, _ = target_ranks(score_last(model, batch, device), batch.targets_S)
        ranks.append(kept_S.cpu())
    ranks_U = torch.cat(ranks).numpy()
    return hit_rate(ranks_U, 10), ndcg(ranks_U, 10)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        synth(Path(scratch) / "data", users=500, items=300, mean_len=40)  # ratings with a planted order
        device = "cuda" if torch.cuda.is_available() else "cpu"
        train(Path(scratch) / "data", int(sys.argv[1]) if len(sys.argv) > 1 else 5, device)
