"""Rows of token ids, in the form of Hugging Face trainers."""

from typing import Any

import pytest

from lorica.data.formats import Tokens


def test_labels_say_what_is_trained(read: Any) -> None:
    assert read.one({"input_ids": [5, 6, 7], "labels": [-100, 6, 7]}) == Tokens("x:1", [5, 6, 7], [0.0, 1.0, 1.0])
    assert read.one({"input_ids": [5, 6, 7], "weight": 0.25}).weights == [0.0, 0.25, 0.25]
    assert read.one({"input_ids": [5, 6], "labels": [5, 6]}).weights == [0.0, 1.0]  # nothing predicts the first
    assert read.one({"input_ids": "[5, 6]"}, format="tokens").input_ids == [5, 6]  # as CSV files hold lists


def test_trls_masks_say_it_too(read: Any) -> None:
    row = {"input_ids": [5, 6, 7, 8], "completion_mask": [0, 0, 1, 1]}
    assert read.one(row).weights == [0.0, 0.0, 1.0, 1.0]
    assert read.one(row | {"assistant_masks": [0, 1, 1, 0]}).weights == [0.0, 0.0, 1.0, 0.0]
    assert read.one(row | {"labels": [-100, -100, -100, 8]}).weights == [0.0, 0.0, 0.0, 1.0]
    assert read.names == []


@pytest.mark.parametrize("mask", [[1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [0, 1, 1, 1, 0]])
def test_padding_is_removed(read: Any, mask: list[int]) -> None:
    start = mask.index(1)
    ids = [0] * start + [5, 6, 7] + [0] * (2 - start)
    labels = [-100] * start + [-100, 6, 7] + [-100] * (2 - start)
    assert read.one({"input_ids": ids, "labels": labels, "attention_mask": mask}) == Tokens(
        "x:1", [5, 6, 7], [0.0, 1.0, 1.0]
    )


@pytest.mark.parametrize(
    ("row", "says"),
    [
        (
            {"input_ids": [5, 6, 7], "labels": [6, 7, -100]},
            r"labels\[0\] is 6 where input_ids\[0\] is 5.*by one",
        ),
        ({"input_ids": [5, 6], "labels": [5]}, "`labels` has 1 numbers where `input_ids` has 2"),
        ({"input_ids": [5, -1]}, "must be token ids from 0; found -1"),
        ({"input_ids": [5, 2**31]}, "must be token ids from 0; found 2147483648"),
        ({"input_ids": [5, 6.0]}, "must be a list of whole numbers"),
        ({"input_ids": [True, 6]}, "must be a list of whole numbers"),
        ({"input_ids": []}, "must be a list of whole numbers"),
        ({"input_ids": [5, 6, 7], "attention_mask": [1, 0, 1]}, "`attention_mask` must be ones"),
        ({"input_ids": [5, 6], "completion_mask": [0, 2]}, "`completion_mask` must be ones and zeros"),
        ({"input_ids": [5, 6], "assistant_masks": [1]}, "`assistant_masks` has 1 numbers where `input_ids` has 2"),
        ({"input_ids": [5, 6], "attention_mask": [0, 0]}, "`attention_mask` must be ones"),
        ({"input_ids": [5, 6], "attention_mask": [1, 2]}, "`attention_mask` must be ones"),
    ],
)
def test_faults_of_tokens(read: Any, row: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=f"x:1: .*{says}"):
        read(row)
