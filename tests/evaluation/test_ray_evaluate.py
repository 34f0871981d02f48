"""The distributed evaluation of a run folder gives what ranking in one process gives."""

import pytest
import torch

import ss4rec
from ss4rec.config import RunConfig, override
from ss4rec.data.batches.source import LocalSource
from ss4rec.data.prepared.folder import PreparedFolder
from ss4rec.data.prepared.manifest import Manifest
from ss4rec.data.synth.generate import synth
from ss4rec.errors import DataError, ResourceError, UsageError
from ss4rec.evaluation.baselines import baselines
from ss4rec.evaluation.evaluator import rank_users, summarise
from ss4rec.evaluation.popularity import MostPopular, RecentlyPopular, TrainingEvents
from ss4rec.evaluation.ray_evaluate import evaluate_folder, rank_baselines
from ss4rec.evaluation.recommended import ListSpec, count_item_facts, summarise_lists
from ss4rec.evaluation.report import evaluate_run
from ss4rec.evaluation.saved import load_evaluation
from ss4rec.evaluation.scorers import ModelScorer
from ss4rec.evaluation.training import training_parts
from ss4rec.io.atomic import write_json
from ss4rec.model.ss4rec import SS4Rec
from ss4rec.protocol.plan import make_plan
from ss4rec.protocol.settings import Protocol
from ss4rec.runs import checkpoint
from ss4rec.runs.folder import RECORD_FILE, RunFolder
from ss4rec.runs.load import load_model
from ss4rec.runs.record import RunRecord

pytestmark = pytest.mark.ray
STATE = {"epoch": 1, "step": 0, "global_step": 1, "score": 0.5}


SHAPE = {"model.dim": 8, "model.time_states": 4, "model.relation_states": 4, "model.gap_map": "log"}
SHAPE |= {"data.max_len": 10, "data.overlap": 2, "evaluation.batch_users": 32}


@pytest.fixture(scope="module")
def run_dir(prepared, tmp_path_factory):
    """An untrained model, saved as a run."""
    return save_run(override(RunConfig(), SHAPE), prepared, tmp_path_factory.mktemp("runs") / "run")


def save_run(config, prepared, path):
    torch.manual_seed(0)
    manifest, folder = Manifest.load(prepared), RunFolder(path)
    plan = make_plan(config.protocol, prepared)
    folder.start(config, PreparedFolder.open(prepared))
    model = SS4Rec(config.model, plan.num_items)
    record = RunRecord.collect(
        name="run", config=config, manifest=manifest, model=model, device="cpu", workers=1, plan=plan
    )
    write_json(folder.path / RECORD_FILE, record.model_dump())
    checkpoint.save(folder.checkpoints, model=model.state_dict(), training={}, state=STATE)
    return folder.path


def alone(prepared, config, scorer, split):
    source = LocalSource(prepared, config.data, batch_size=4, seed=0)
    return summarise(rank_users(scorer, source.eval_batches(split, 1000)), config.evaluation.ks)


def test_a_run_on_two_actors_equals_one_process(small_cluster, prepared, run_dir):
    model, config = load_model(run_dir)
    scorer = ModelScorer(model, Manifest.load(prepared).median_gap_s, config.data.target_time)
    found = evaluate_folder(run_dir, prepared, split="valid", workers=2)
    expected = alone(prepared, config, scorer, "valid")
    assert found.num_users == expected.num_users
    for one, other in zip(found.settings, expected.settings, strict=True):
        assert one.metrics == pytest.approx(other.metrics, abs=1e-3)


def test_baselines_equal_one_process(small_cluster, prepared, run_dir):
    manifest, config = Manifest.load(prepared), RunFolder.open(run_dir).config()
    events = TrainingEvents.read(PreparedFolder.open(prepared).shard_paths, manifest.items)
    opened = PreparedFolder.open(prepared)
    ranks = rank_baselines(config, opened, make_plan(config.protocol, opened))
    found = {name: summarise(own, config.evaluation.ks) for name, own in ranks.items()}
    assert found["most popular"] == alone(prepared, config, MostPopular(events.counts()), "test")
    assert found["popular in 30 days"] == alone(prepared, config, RecentlyPopular(events), "test")
    assert list(found) == list(baselines(prepared, make_plan(config.protocol, prepared)))


def test_many_targets_on_two_actors_equal_one_process(small_cluster, prepared, tmp_path):
    cut = Protocol(
        name="cut", kind="global_time", cut=0.8, targets="successive", validation="last_train_item"
    )
    config = override(RunConfig(protocol=cut), SHAPE)
    run, plan = save_run(config, prepared, tmp_path / "run"), make_plan(cut, prepared)
    found = evaluate_folder(run, prepared, workers=2)
    model, _ = load_model(run)
    scorer = ModelScorer(model, plan.median_gap_s, config.data.target_time)
    ranks = rank_users(scorer, LocalSource.of(config, prepared).eval_batches("test", 1000))
    expected = summarise(ranks, config.evaluation.ks, protocol=cut)
    assert (found.num_targets, found.num_users) == (plan.facts["test_targets"], plan.facts["test_users"])
    assert found.num_targets > 2 * found.num_users
    for one, other in zip(found.settings, expected.settings, strict=True):
        assert one.metrics == pytest.approx(other.metrics, abs=1e-3)
        assert one.by_target == pytest.approx(other.by_target, abs=1e-3)
    with pytest.raises(UsageError, match="trains on other events"):
        evaluate_folder(run, prepared, protocol=Protocol())
    first = evaluate_folder(run, prepared, protocol=cut.model_copy(update={"targets": "first"}))
    assert first.num_targets == first.num_users == plan.facts["test_users"]
    assert ss4rec.load(run).protocol == cut
    assert ss4rec.load(run).item_ids == plan.items(prepared)["source_id"].to_pylist()


def test_an_evaluation_keeps_what_one_process_would(small_cluster, prepared, run_dir):
    results = evaluate_run(run_dir, prepared, workers=2)
    kept = load_evaluation(run_dir)
    assert {name: found.model_dump(mode="json") for name, found in kept.results.items()} == results
    assert (run_dir / "report.html").is_file()
    model, config = load_model(run_dir)
    data = PreparedFolder.open(prepared)
    plan = make_plan(config.protocol, data)
    item_facts = count_item_facts(
        plan.items(data), training_parts(data.shard_paths, data.manifest.items, plan)
    )
    scorer = ModelScorer(model, data.manifest.median_gap_s, config.data.target_time)
    batches = LocalSource.of(config, data).eval_batches("test", 64)
    ranks = rank_users(scorer, batches, ListSpec(item_facts, False, True))
    expected = summarise_lists(ranks, item_facts)
    assert kept.results["model"].lists.metrics == pytest.approx(expected.metrics, rel=0.02)
    assert kept.targets["unseen"].to_pylist() == ranks["unseen"].to_pylist()


def test_other_data_is_refused(small_cluster, run_dir, tmp_path):
    synth(tmp_path / "other", users=100, items=110, mean_len=26, seed=5)
    with pytest.raises(DataError, match="other items than the run run"):
        evaluate_folder(run_dir, tmp_path / "other")


@pytest.mark.parametrize(
    ("gpu", "message"),
    [
        (False, "4 evaluation workers need a CPU each, the cluster has 3"),
        (True, "need a GPU each, the cluster has 0"),
    ],
)
def test_a_pool_that_would_wait_for_ever_is_refused(small_cluster, prepared, run_dir, gpu, message):
    with pytest.raises(ResourceError, match=message):
        evaluate_folder(run_dir, prepared, workers=4, gpu=gpu)


def test_a_run_loads_as_a_recommender(prepared, run_dir):
    recommender = ss4rec.load(run_dir)
    items = recommender.item_ids[:2]
    assert recommender.unknown_gap_s == Manifest.load(prepared).median_gap_s
    assert len(recommender.recommend(items, [100, 200], k=5)) == 5
