"""`ss4rec tune`: options become a search and a base configuration; tests/tuning/test_sweep_ray.py runs one."""

from tests.cli.harness import Case, parametrised

BEST = {"best": {"trial": 3, "values": [0.25]}}
TUNE = {"stub": "tuning.sweep.run_sweep", "answer": BEST}


def _everything(seen):
    ((space, data, sweep_dir, settings), options) = seen.calls[0]
    assert list(space.parameters) == ["optim.lr"]
    assert (data.path.name, sweep_dir) == ("small", seen.folder / "there" / "mine")
    assert settings.model_dump() == {
        "trials": 5,
        "objectives": ("ndcg@10", "parameters"),
        "pruner": "none",
        "grace_epochs": 2,
        "seed": 7,
        "trials_per_gpu": 2,
        "concurrent": 3,
        "minutes": 1.5,
    }
    base = options["base"]
    assert (base.preset, base.train.epochs, base.resources.workers) == ("demo", 4, 2)
    assert options["address"] == "local"
    assert base.protocol.name == "time-to-split"
    assert seen.json == BEST


def _from_the_space(seen):
    base = seen.calls[0][1]["base"]
    assert (base.preset, base.train.epochs, base.resources.workers) == ("debug", 1, 1)
    assert "best trial 3: 0.2500" in seen.out


CASES = (
    Case(
        "tune --data {prepared} --space {space} --trials 5 --storage there --name mine --preset demo "
        "--set train.epochs=4 --protocol time-to-split --workers 2 --objective ndcg@10 "
        "--objective parameters --pruner none --grace-epochs 2 "
        "--seed 7 --trials-per-gpu 2 --concurrent 3 --minutes 1.5 --address local --json",
        _everything,
        **TUNE,
    ),
    Case("tune --data {prepared} --space {space} --name mine", _from_the_space, **TUNE),
    Case(
        "tune --data {prepared} --space {space} --name mine --set train.epoch=4",
        lambda seen: _has(seen.err, 'did you mean "train.epochs"?'),
        2,
    ),
    Case(
        "tune --data {prepared} --space {space} --name mine --set optim.lr=1",
        lambda seen: _has(seen.err, "--set optim.lr: searched by"),
        2,
    ),
    Case(
        "tune --data {prepared} --space {shop} --name mine",
        lambda seen: _has(seen.err, "shop.csv, line 1: NameError: name 'buyer' is not defined"),
        2,
    ),
)


def _has(text, words):
    assert words in text


@parametrised(CASES)
def test_case(case, perform):
    perform(case)
