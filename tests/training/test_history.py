"""The history as CSV."""

import csv
import io

from samus_edge.training.history import EpochRecord, history_csv


def test_numbers_come_back_to_the_bit_and_what_was_not_scored_is_empty() -> None:
    records = [
        EpochRecord(1, 1 / 3, 2.5, 0.1 + 0.2, None, 3e-4),
        EpochRecord(2, 1e-17, float("inf"), 0.5, 0.25, 0.0),
    ]
    text = history_csv(records)
    rows = list(csv.DictReader(io.StringIO(text)))
    assert list(rows[0]) == [
        *("epoch", "train_loss", "val_loss", "val_dice_box", "val_dice_point", "learning_rate")
    ]
    assert (float(rows[0]["train_loss"]), float(rows[0]["val_dice_box"])) == (1 / 3, 0.1 + 0.2)
    assert rows[0]["val_dice_point"] == ""
    assert float(rows[1]["val_loss"]) == float("inf")
    assert text.count("\n") == 3 and "\r" not in text


def test_an_empty_history_is_its_header() -> None:
    assert history_csv([]).startswith("epoch,") and history_csv([]).count("\n") == 1
