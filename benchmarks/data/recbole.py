"""RecBole's own loading and prefix augmentation, timed: prints one JSON object. It runs in an environment of its own.

    python -m venv rb
    rb/bin/pip install torch 'numpy<1.24' 'scipy<1.12' 'pandas<2.1' 'scikit-learn<1.5' tqdm colorlog==4.7.2 colorama==0.4.4 \\
        pyyaml tensorboard tabulate plotly texttable psutil
    rb/bin/pip install --no-deps recbole==1.2.1 thop
    rb/bin/python -m benchmarks.data.recbole FOLDER NAME

RecBole 1.2.1 wants `np.float`, which NumPy 1.24 removed, and Ray below 2.7, which only its tuning needs. FOLDER/NAME holds
NAME.inter as `ss4rec data export` writes it.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from recbole.config import Config
from recbole.data import create_dataset, data_preparation

from benchmarks.memory import PeakMemory


def load(folder: str, name: str) -> dict[str, Any]:
    """Load, keep the 5-core, augment, split by leave-one-out, and read one epoch of training batches."""
    settings = {
        "data_path": folder,
        "load_col": {"inter": ["user_id", "item_id", "timestamp"]},
        "user_inter_num_interval": "[5,inf)",
        "item_inter_num_interval": "[5,inf)",
        "eval_args": {"split": {"LS": "valid_and_test"}, "order": "TO", "mode": "full", "group_by": "user"},
        "train_neg_sample_args": None,
        "MAX_ITEM_LIST_LENGTH": 50,
        "use_gpu": False,
    }
    began = time.perf_counter()
    with PeakMemory() as memory:
        config = Config(model="SASRec", dataset=name, config_dict=settings)
        train, _, _ = data_preparation(config, create_dataset(config))
        loaded_s = time.perf_counter() - began
        moved = targets = 0
        for batch in train:
            moved += sum(tensor.nbytes for tensor in batch.interaction.values())
            targets += len(batch)
    return {
        "seconds": time.perf_counter() - began,
        "loaded_s": loaded_s,
        "peak_bytes": memory.peak,
        "bytes_per_epoch": moved,
        "targets": targets,
    }


if __name__ == "__main__":
    found = load(*sys.argv[1:3])  # RecBole writes to the standard output too
    print(json.dumps(found))
