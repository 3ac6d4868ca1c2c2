"""What trials draw from a space: every setting where it applies and only there; and what is no space."""

from typing import Any

import numpy as np
import pytest

from mmray.config import Config, load_config
from mmray.config.search import draws, perturbed
from mmray.config.variants import varied
from mmray.errors import ConfigError

PROJECT = {
    "output": "/tmp/out",
    "samples": {"manifest": "m.csv"},
    "targets": {"mood": {"kind": "classification"}},
    "features": {"voice": {"kind": "mel"}, "words": {"kind": "tokens"}},
}


def searching(space: dict[str, Any], **tune: Any) -> Config:
    return load_config({**PROJECT, "tune": {"space": space, **tune}})


def test_a_setting_of_some_kinds_is_drawn_with_them_only():
    config = searching(
        {"model.fusion.rank": {"grid": [2, 4]}, "model.fusion.kind": {"grid": ["concat", "low_rank"]}}
    )
    assert draws(config) == [
        {"model.fusion.kind": "concat"},
        {"model.fusion.kind": "low_rank", "model.fusion.rank": 2},
        {"model.fusion.kind": "low_rank", "model.fusion.rank": 4},
    ]
    for settings in draws(config):
        assert varied(config, settings).model.fusion.kind == settings["model.fusion.kind"]


def test_an_encoder_is_searched_where_its_feature_is_read():
    space = {
        "features": {"choice": [["voice"], ["voice", "words"]]},
        "model.encoders.words.kind": {"choice": ["gru", "mlp"]},
        "model.encoders.words.bidirectional": {"choice": [True, False]},
    }
    config = searching(space, searcher="grid")
    found = draws(config)
    assert len(found) == 1 + 2 + 1  # no words; a gru of either kind; an mlp
    assert {"features": ["voice"]} in found
    alone = varied(config, {"features": ["voice"]})
    assert list(alone.features) == ["voice"]
    assert "words" not in alone.model.encoders


def test_parts_of_features_left_out_are_neither_frozen_nor_have_rates():
    settings = {"freeze": ["encoders.words", "fusion"], "learning_rates": {"encoders.voice": 0.1}}
    config = load_config({**PROJECT, "train": settings})
    alone = varied(config, {"features": ["voice"]}).train
    assert (alone.freeze, alone.learning_rates) == (["fusion"], {"encoders.voice": 0.1})
    assert varied(config, {"features": ["words"]}).train.learning_rates == {}


def test_what_is_done_to_the_input_of_a_feature_left_out_goes_with_it():
    model = {"inputs": {"voice": {"noise": 0.3}}, "encoders": {"words": {"kind": "gru"}}}
    config = load_config({**PROJECT, "model": model})
    assert varied(config, {"features": ["words"]}).model.inputs == {}
    alone = varied(config, {"features": ["voice"]}).model
    assert (alone.inputs["voice"].noise, alone.encoders) == (0.3, {})


def test_draws_lie_in_their_ranges_and_no_two_are_the_same():
    space = {
        "train.learning_rate": {"log_uniform": [1e-4, 1e-1]},
        "model.fusion.dropout": {"uniform": [0.1, 0.4]},
        "model.fusion.hidden": {"int": [7, 9]},
        "train.batch_size": {"choice": [8, 16]},
    }
    found = draws(searching(space, trials=40))
    assert len(found) == 40
    assert {settings["model.fusion.hidden"] for settings in found} == {7, 8, 9}
    assert all(0.1 <= settings["model.fusion.dropout"] <= 0.4 for settings in found)
    rates = sorted(settings["train.learning_rate"] for settings in found)
    assert 1e-4 <= rates[0] < 1e-3 < 1e-2 < rates[-1] <= 1e-1
    assert found == draws(searching(space, trials=40)), "the seed decides"
    assert found != draws(searching(space, trials=40, seed=1))
    few = draws(searching({"train.batch_size": {"choice": [8, 16]}}, trials=40))
    assert sorted(settings["train.batch_size"] for settings in few) == [8, 16]


def test_grids_are_crossed_with_every_draw():
    space = {"train.learning_rate": {"grid": [0.1, 0.2]}, "model.fusion.hidden": {"int": [1, 1000]}}
    found = draws(searching(space, trials=3))
    assert [settings["train.learning_rate"] for settings in found] == [0.1, 0.2] * 3
    hidden = [settings["model.fusion.hidden"] for settings in found]
    assert hidden[::2] == hidden[1::2], "a draw is the same beside every value of the grid"
    assert len({*hidden}) == 3


@pytest.mark.parametrize(
    ("space", "more", "told"),
    [
        ({"model.fusion.layers": {"choice": [1, 2]}}, {}, r"model\.fusion\.layers .*unknown key"),
        ({"model.fusion.kind": {"choice": ["concat", "nope"]}}, {}, r"'nope' is not one of"),
        ({"features": {"choice": [["face"]]}}, {}, r"\['face'\] is not a list of some of voice, words"),
        ({"model.fusion.hidden": {"int": [0, 4]}}, {}, "greater than 0"),
        ({"model.fusion.hidden": {"int": [4, 4]}}, {}, r"the range \[4, 4\] is empty"),
        ({"train.monitor": {"choice": ["loss"]}}, {}, "what trials are compared by"),
        ({"targets.mood.label_smoothing": {"uniform": [0.0, 0.3]}}, {}, "changes the loss that trials"),
        ({"targets.mood.classes": {"choice": [["a"]]}}, {}, "what trials are judged by"),
        ({"samples.split.seed": {"choice": [1]}}, {}, r"only model\.…"),
        ({"train.learning_rate": {"uniform": [0.1, 0.2]}}, {"searcher": "grid"}, "grid and choice only"),
        ({"train.learning_rate": {"grid": [0.1]}}, {"searcher": "optuna"}, "write choice in place of grid"),
        ({"model.fusion.hidden": {"int": [4, 8]}}, {"scheduler": "pbt"}, "changes settings in mid-training"),
        (
            {"train.learning_rate": {"grid": [0.1]}},
            {"scheduler": "pbt", "searcher": "grid"},
            "searcher random",
        ),
    ],
)
def test_what_is_no_space_is_refused_with_the_config(space, more, told):
    with pytest.raises(ConfigError, match=told):
        searching(space, **more)


def test_a_target_may_be_searched_by_a_metric():
    space = {"targets.mood.label_smoothing": {"uniform": [0.0, 0.3]}}
    config = load_config({**PROJECT, "train": {"monitor": "mood/accuracy"}, "tune": {"space": space}})
    assert 0 <= draws(config)[0]["targets.mood.label_smoothing"] <= 0.3


def test_a_population_moves_its_settings_within_their_ranges():
    space = {
        "train.learning_rate": {"log_uniform": [1e-3, 1e-1]},
        "model.fusion.dropout": {"choice": [0.1, 0.2, 0.3]},
    }
    config, rng = searching(space, scheduler="pbt"), np.random.default_rng(0)
    settings = {"train.learning_rate": 0.09, "model.fusion.dropout": 0.1}
    found = [perturbed(config, settings, rng) for _ in range(200)]
    rates = [one["train.learning_rate"] for one in found]
    assert 1e-3 <= min(rates) <= max(rates) <= 1e-1
    assert sum(rate == pytest.approx(0.072) for rate in rates) > 40, "by a fifth down"
    assert sum(rate == 1e-1 for rate in rates) > 40, "by a fifth up, to the end of the range"
    assert sum(rate < 0.05 for rate in rates) > 10, "drawn anew"
    assert {one["model.fusion.dropout"] for one in found} == {0.1, 0.2, 0.3}
