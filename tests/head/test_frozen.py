import numpy as np
import pytest
import torch

from lib import storage
from lib.head import frozen as features
from lib.head.frozen import frozen_features
from lib.model.probes import states_alone
from lib.model.windows import Windows

SPLITS = {"train": [[81, 2, 216, 9690, 2], [278], [81, 9690, 278, 100]], "test": [[5, 6, 7]]}


@pytest.fixture
def encode(tmp_path, monkeypatch, make_backbone):
    monkeypatch.setattr(storage, "CACHE", tmp_path)
    loads = []

    def load(*_, max_length, **options):
        loads.append(options)
        return make_backbone(**options)

    monkeypatch.setattr(features, "load_backbone", load)
    monkeypatch.setattr(features, "model_fingerprint", lambda *_: "weights")

    def encode(poolings=("mean", "last"), layers=(1, 2), splits=SPLITS):
        return frozen_features(
            "smollm2", splits, poolings=poolings, layers=layers, quantization="nf4",
            dtype=torch.float32, device=torch.device("cpu"), token_budget=8,
        )  # fmt: skip

    encode.loads = loads
    return encode


def test_one_pass_gives_every_pooling_of_every_layer(encode, make_backbone):
    found, costs = encode()
    assert len(encode.loads) == 1
    assert set(found["train"]) == {f"{p} of layer -{n}" for p in ("mean", "last") for n in (1, 2)}
    backbone = make_backbone(dtype="float32")
    expected = [x[-1] for x in states_alone(backbone, SPLITS["train"])]
    np.testing.assert_allclose(found["train"]["last of layer -1"], expected, rtol=1e-4, atol=1e-4)
    ids = torch.tensor([SPLITS["test"][0]])
    states = backbone(ids, output_hidden_states=True).hidden_states[-2]
    np.testing.assert_allclose(
        found["test"]["mean of layer -2"][0], states[0].mean(0), rtol=1e-3, atol=1e-3
    )
    assert costs["train"]["spent"][0] > 0
    assert costs["train"]["total_params"] > 0


def test_windows_are_pooled_as_one_document_and_cached_as_others_than_its_tokens(encode):
    one, *others = [81, 2, 216], [9690, 2], [278]
    windows = Windows([one, *others])
    found, _ = encode(("mean", "max"), (1,), {"train": [windows, one, *others]})
    for kind, combine in (("mean", lambda x: np.average(x, axis=0, weights=[3, 2, 1])),
                          ("max", lambda x: x.max(axis=0))):  # fmt: skip
        rows = found["train"][f"{kind} of layer -1"]
        np.testing.assert_allclose(rows[0], combine(rows[1:]), rtol=1e-3, atol=1e-3)
    encode(("mean", "max"), (1,), {"train": [list(windows), one, *others]})
    assert len(encode.loads) == 2


def test_the_second_time_no_model_is_touched(encode):
    first, costs = encode()
    again, same = encode()
    assert len(encode.loads) == 1
    assert same == costs
    for kind, rows in first["train"].items():
        assert np.array_equal(rows, again["train"][kind])
        assert isinstance(again["train"][kind], np.memmap)


def test_other_layers_and_other_documents_are_passes_of_their_own(encode):
    encode(layers=(1,))
    found, _ = encode(layers=(1, 2))
    assert set(found["test"]) == {f"{p} of layer -{n}" for p in ("mean", "last") for n in (1, 2)}
    assert len(encode.loads) == 2
    other, _ = encode(splits={"train": [[81, 2, 216]]})
    assert len(encode.loads) == 3
    assert other["train"]["mean of layer -1"].shape == (1, 576)


def test_damaged_features_are_computed_again(encode, tmp_path, damage, caplog):
    features, _ = encode()
    before = {kind: np.array(rows) for kind, rows in features["train"].items()}
    damage(tmp_path / "features")
    again, costs = encode()
    assert "computing it anew" in caplog.text
    assert costs["train"]["spent"][0] > 0
    assert all(np.array_equal(again["train"][kind], rows) for kind, rows in before.items())


def test_more_layers_than_there_are_are_an_error(encode):
    with pytest.raises(ValueError, match="layer_grid: 3 was asked for, but the model has 2 layers"):
        encode(layers=(1, 3))
