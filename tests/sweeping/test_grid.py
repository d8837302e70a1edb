"""From what is typed to the trials that are run."""

import math

import pytest

from lorica.sweeping.grid import Trial, trials, varied


def test_one_value_is_fixed_and_several_are_varied() -> None:
    typed = ["train.steps=5", "train.lr=1e-4, 3e-4", "lora.target_modules=[q_proj,v_proj]", "lora.r=8,32"]
    fixed, several = varied(typed)
    assert fixed == ["train.steps=5", "lora.target_modules=[q_proj,v_proj]"]
    assert several == [("train.lr", ["1e-4", "3e-4"]), ("lora.r", ["8", "32"])]
    made = trials(several)
    assert [trial.settings for trial in made] == [
        ("train.lr=1e-4", "lora.r=8"), ("train.lr=1e-4", "lora.r=32"),
        ("train.lr=3e-4", "lora.r=8"), ("train.lr=3e-4", "lora.r=32"),
    ]  # fmt: skip
    assert made[2].name == "002-lr=3e-4-r=8" and made[2].values == {"train.lr": "3e-4", "lora.r": "8"}


def test_lists_and_texts_are_values_too() -> None:
    _, several = varied(["lora.target_modules=[q_proj,v_proj],all-linear", 'data.columns={prompt: "a, b"},{prompt: c}'])
    assert several[0][1] == ["[q_proj,v_proj]", "all-linear"]
    assert several[1][1] == ['{prompt: "a, b"}', "{prompt: c}"]
    assert Trial(0, ("lora.target_modules=[q_proj,v_proj]",)).name == "000-target_modules=_q_proj_v_proj_"


def test_ranges() -> None:
    _, several = varied(["train.lr=log:1e-5:1e-3:5", "lora.dropout=linear:0:0.2:3", "train.eps=random:1e-9:1e-6:20"])
    values = {key: [float(text) for text in texts] for key, texts in several}
    assert values["train.lr"] == pytest.approx([1e-5, 10**-4.5, 1e-4, 10**-3.5, 1e-3], rel=1e-3)
    assert values["lora.dropout"] == [0, 0.1, 0.2]
    drawn = values["train.eps"]
    assert len(set(drawn)) == 20 and all(1e-9 <= value <= 1e-6 for value in drawn)
    middle = sum(math.log10(value) for value in drawn) / 20
    assert -8.2 < middle < -6.8, "drawn evenly in their logarithm"
    assert varied(["train.eps=random:1e-9:1e-6:20"])[1] == [several[2]]


@pytest.mark.parametrize(
    "text",
    ["log:1e-5:1e-3", "log:1e-3:1e-5:3", "log:0:1:3", "random:-1:1:3", "log:a:b:3", "linear:0:1:1", "log:1:2:3:4",
     "log:1:inf:3", "linear:0:1:101"],
)  # fmt: skip
def test_ranges_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"train\.lr=.*LOW:HIGH:COUNT"):
        varied([f"train.lr={text}"])


def test_what_cannot_be_tried() -> None:
    with pytest.raises(ValueError, match="nothing is varied"):
        trials(varied(["train.lr=1e-4"])[1])
    with pytest.raises(ValueError, match="twice"):
        varied(["train.lr=1e-4,3e-4,1e-4"])
    with pytest.raises(ValueError, match="10,000 combinations"):
        trials([("a", ["1"] * 100), ("b", ["1"] * 100)])
