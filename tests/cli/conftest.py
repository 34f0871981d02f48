"""Small real things that verbs work on, made once: sources, prepared folders, a trained run."""

import json
import shutil
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def places(tmp_path_factory, prepared) -> dict[str, Path]:
    """Return paths by the names that cases use."""
    from ss4rec.cli import main_group
    from ss4rec.cli.options import resolve_config
    from ss4rec.data.split import parse_cut, split
    from ss4rec.train.worker import train_alone
    from tests.evaluation.conftest import evaluate

    base = tmp_path_factory.mktemp("cli")
    shop = base / "shop.csv"
    rows = [
        f"{user},{item},{86400 * (user * item % 50)},{1 + item % 5},a{item % 3},{('buy', 'view')[item % 2]}"
        for user in range(8)
        for item in range(8)
    ]
    shop.write_text("\n".join(["buyer,sku,when,stars,aisle,kind", *rows]) + "\n")
    whole = base / "whole"
    columns = "user=buyer,item=sku,time=when,rating=stars"
    arguments = ["data", "prepare", "--source", shop, "--out", whole, "--columns", columns, "--k-core", 0]
    main_group.main([str(word) for word in arguments], standalone_mode=False)
    split(whole, base / "split", parse_cut("1970-01-25"))
    config = resolve_config("debug", ["train.epochs=1", "tracking.wandb=disabled"])
    train_alone(config, prepared, base / "run", torch.device("cpu"))
    evaluate(base / "run", prepared)
    shutil.copytree(base / "run", base / "other")
    changed = json.loads((base / "other" / "config.json").read_text())
    changed["optim"]["lr"] *= 2
    (base / "other" / "config.json").write_text(json.dumps(changed))
    events = base / "events.toml"
    events.write_text('[[event]]\ndate = 1970-02-01\nname = "sale"\n')
    space = base / "space.py"
    space.write_text(
        "from optuna.distributions import FloatDistribution\n"
        "from tuning.space import SearchSpace\n\n"
        "SPACE = SearchSpace(base='debug', fixed={'train.epochs': 1, 'tracking.wandb': 'disabled'},\n"
        "    parameters={'optim.lr': FloatDistribution(1e-3, 1e-2, log=True)})\n"
    )
    return {
        "prepared": prepared,
        "shop": shop,
        "whole": whole,
        "split": base / "split",
        "run": base / "run",
        "other": base / "other",
        "space": space,
        "events": events,
    }


@pytest.fixture
def perform(places, tmp_path, monkeypatch, capsys):
    """Run a case in an empty folder."""
    from tests.cli.harness import perform as perform_case

    return lambda case: perform_case(case, places, tmp_path, monkeypatch, capsys)
