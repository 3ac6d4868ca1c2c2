"""A model's card, from results and an evaluation as they are stored."""

from mmray.config import load_config
from mmray.results.card import card

CONFIG = {
    "output": "out",
    "samples": {"manifest": "m.jsonl"},
    "targets": {"mood": {"kind": "classification"}},
    "features": {"voice": {"kind": "mel"}, "words": {"kind": "tokens"}},
}
RESULTS = {
    "model_fingerprint": "0123",
    "features": ["voice", "words"],
    "history": [{}, {}],
    "best_epoch": 2,
    "monitor": "loss",
    "splits": {"test": {"rows": 40, "used": 38, "no_modality": 1, "no_target": 1}},
    "rows": [{"model": "fused", "features": [], "n": 38, "metrics": {"mood/accuracy": 0.5}, "interval": {}}],
    "warnings": ["2 groups stand in two splits"],
}
ROW = {"groups": 3, "metrics": {"accuracy": 0.25}, "interval": {"accuracy": [0.1, 0.4]}}
EVALUATION = {
    "targets": {
        "mood": {
            "main": "accuracy",
            "split": "test",
            "by": {
                "room": [
                    {**ROW, "value": "a|b", "n": 8, "difference": {"accuracy": [-0.25, -0.4, -0.1]}},
                    {**ROW, "value": "c", "n": 30, "difference": {"accuracy": [0.25, None, None]}},
                ]
            },
        }
    }
}


def test_it_says_what_was_trained_on_what_and_what_it_is_worth():
    text = card(load_config(CONFIG), RESULTS)
    assert "| `voice` | mel | audio |" in text
    assert "| test | 40 | 38 | 1 | 1 |" in text
    assert "| fused | 38 |" in text
    assert "- 2 groups stand in two splits" in text
    assert "`mmray evaluate` writes them here" in text


def test_subgroups_stand_with_their_distance_and_few_rows_are_a_limit():
    text = card(load_config(CONFIG), RESULTS, EVALUATION)
    assert "| a\\|b | 8 | 0.250 [0.100, 0.400] | -0.250 [-0.400, -0.100] |" in text
    assert "| c | 30 | 0.250 [0.100, 0.400] | +0.250 |" in text
    assert "fewer than 30 rows of a|b" in text
