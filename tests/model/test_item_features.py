"""Rows of items by their features: against a loop, their gradients, what is kept, and what never trained."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from ss4rec.config import LossConfig, ModelConfig
from ss4rec.data.prepared.features import encode_features
from ss4rec.data.prepared.item_codes import WIDEST, chosen_features, item_codes
from ss4rec.data.prepared.manifest import Manifest
from ss4rec.data.sources.features import FeatureTable
from ss4rec.errors import CheckpointError, ConfigError
from ss4rec.model.columns import DataColumns
from ss4rec.model.segments import Segments
from ss4rec.model.ss4rec import make_model
from ss4rec.train.objective import Objective

SMALL = ModelConfig(dim=6, blocks=1, time_states=4, relation_states=4, gap_map="log", id_dropout=0.4)
TRAINED, ITEMS = 3, 5


@pytest.fixture(scope="module")
def described():
    """Items 1 to 5 with a feature of each kind; the last has none but its genres."""
    known = {
        "brand": ["b", "a", None, "a", None],
        "tags": ["x|y", "y", "", "x|y|z", None],
        "price": [1.0, 3.0, None, 1000.0, None],
        "name": ["red cup", "blue cup", "", "red pot", None],
        "picture": [[3.0, 4.0], [0.0, 5.0], [], [5.0, 0.0], []],
    }
    kinds = {"brand": "categorical", "tags": "multi", "price": "number", "name": "text", "picture": "vector"}
    ids = pa.array(range(10, 15))
    table, features = encode_features(ids, FeatureTable("here", ids, pa.table(known)), kinds)
    manifest = Manifest.model_construct(name="shop", features={"items": features})
    base = {"title": [None] * 4 + ["It (1994)"], "genres": [None] * 4 + [["Drama"]]}
    items = pa.table({name: table[name] for name in table.column_names} | base)
    return items, manifest, known


def rows_by_loop(items, manifest, table, vectors):
    """Say it again, an item at a time."""
    meaning = {feature.name: feature for feature in manifest.features["items"]}
    found = torch.zeros(ITEMS + 1, table.shape[1], dtype=table.dtype)
    for item in range(ITEMS):
        first = 0
        for name in ("brand", "tags", "price", "name"):
            value, feature = items[f"feature.{name}"][item].as_py(), meaning[name]
            if name == "brand" and value:
                found[item + 1] += table[first + value - 1]
            if name in ("tags", "name"):
                for code in value:
                    found[item + 1] += table[first + code - (name == "tags")] / len(value) ** 0.5
            if name == "price" and np.isfinite(value):
                scaled = min(max((value - feature.center) / feature.scale, -WIDEST), WIDEST)
                found[item + 1] += table[first] + scaled * table[first + 1]
            first += {"brand": 3, "tags": 4, "price": 2, "name": 4096}[name]
        for place, value in enumerate(items["feature.picture"][item].as_py()):
            found[item + 1] += value / 5 * vectors[place]
    return found


def model_of(described, names=None, config=SMALL):
    items, manifest, _ = described
    codes = item_codes(items, manifest, names or chosen_features("auto", manifest))
    torch.manual_seed(0)
    model = make_model(config, ITEMS, columns=DataColumns(items=codes.columns)).double()
    model.set_item_features(codes, TRAINED)
    for parameter in model.members[0].features.parameters():
        torch.nn.init.normal_(parameter)
    return model, codes


def test_rows_and_gradients_equal_a_loop(described):
    model, codes = model_of(described)
    features = model.features
    expected = rows_by_loop(*described[:2], features.table, features.vectors)
    assert torch.allclose(features(), expected, rtol=1e-6)
    assert codes.described().tolist() == [False, True, True, False, True, False]
    weight = torch.randn_like(expected)
    wanted = torch.autograd.grad((expected * weight).sum(), [features.table, features.vectors])
    found = torch.autograd.grad((features() * weight).sum(), [features.table, features.vectors])
    for one, other in zip(found, wanted, strict=True):
        assert torch.allclose(one, other, rtol=1e-6)


def test_what_the_source_brings_is_chosen_by_name(described):
    items, manifest, _ = described
    codes = item_codes(items, manifest, ("genres", "period"))
    assert (codes.columns.rows, codes.codes_N.tolist()) == (4, [0, 2])
    assert codes.described().tolist() == [False] * 5 + [True]
    assert chosen_features("none", manifest) == ()
    assert chosen_features(("price", "genres"), manifest) == ("price", "genres")
    with pytest.raises(ConfigError, match=r"has prize, and items of shop have brand, .*, genres"):
        chosen_features(("prize",), manifest)


def test_an_item_that_never_trained_has_its_features_alone(described):
    model, _ = model_of(described)
    with torch.no_grad():
        model.eval()
        rows, features = model.item_matrix(), model.features()
        assert torch.equal(rows[TRAINED + 1 :], features[TRAINED + 1 :])
        assert torch.equal(
            rows[: TRAINED + 1], features[: TRAINED + 1] + model.embedding.weight[: TRAINED + 1]
        )
        assert model.item_matrix() is rows  # kept
        model.embedding.weight[1] += 1
        assert not torch.equal(model.item_matrix(), rows)
        other = model_of(described)[0].eval()
        other.load_state_dict(model.state_dict())
        assert torch.equal(other.item_matrix(), model.item_matrix())
        assert other.num_trained == TRAINED


def test_learned_rows_are_left_out_by_chance_and_never_trained_items_are_no_wrong_answers(described):
    model, _ = model_of(described)
    objective = Objective(model, LossConfig(label_smoothing=0.1, backend="reference"))
    items_T, targets_T = torch.tensor([1, 2, 3]), torch.tensor([2, 3, 1])
    segments = Segments(torch.tensor([0, 3]))
    grads = []
    for _ in range(40):
        model.zero_grad()
        objective(items_T, torch.ones(3), targets_T, segments).backward()
        grads.append(model.embedding.weight.grad.abs().sum(1))
    left_out = (torch.stack(grads)[:, 1 : TRAINED + 1] == 0).double().mean()
    assert 0.2 < left_out < 0.6
    assert (torch.stack(grads)[:, TRAINED + 1 :] == 0).all()
    # Only item 4 has tag z and trained never.
    z = 3 + 2
    assert (model.features.table.grad[z] == 0).all()
    assert (model.features.table.grad[z - 1] != 0).any()


def test_members_have_features_of_their_own(described):
    model, _ = model_of(described, config=SMALL.model_copy(update={"members": 2}))
    assert model.num_trained == TRAINED
    assert model.eval().item_matrix().shape == (ITEMS + 1, 2 * SMALL.dim)


def test_damaged_features_are_refused(described):
    model, _ = model_of(described)
    for name, value in (("codes_N", 10**6), ("trained", 99), ("offsets_V1", 7)):
        state = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        state[f"features.{name}"].fill_(value)
        with pytest.raises(CheckpointError, match="features of items"):
            model.load_state_dict(state)
