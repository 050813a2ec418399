"""What the lesion proposer learns from masks, and that it learns it."""

import dataclasses

import numpy as np
import pytest
import torch

from samus_edge.data.augmentation import AugmentationConfig
from samus_edge.data.case import UltrasoundCase
from samus_edge.data.collection import DatasetConfig
from samus_edge.modeling.lesion_proposer import BOX_UNIT, LesionProposer
from samus_edge.training.batches import TrainingData
from samus_edge.training.config import TrainConfig
from samus_edge.training.learner import Learner, Processes
from samus_edge.training.losses import LossWeights
from samus_edge.training.objective import MaskObjective, train_proposer_alone, uses_bf16
from samus_edge.training.proposals import proposal_loss, proposal_targets
from samus_edge.training.training_samples import LesionDataset, collate
from tests.training.small_training import EMBED_DIM, small_model


def rectangle(x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
    """A mask (256, 256) from the first to the last pixel."""
    mask = np.zeros((256, 256), np.bool_)
    mask[y1 : y2 + 1, x1 : x2 + 1] = True
    return mask


def test_targets_are_the_lesions_centres_and_distances() -> None:
    first, second = rectangle(24, 40, 87, 71), rectangle(160, 160, 239, 255)
    maps = proposal_targets([first, second, np.zeros_like(first)], 32)
    assert maps.shape == (6, 32, 32) and maps.dtype == np.float32
    np.testing.assert_allclose(
        maps[0], np.maximum(first, second).reshape(32, 8, 32, 8).mean((1, 3))
    )
    peaks = np.argwhere(maps[1] == 1)
    # centres (55.5, 55.5) and (199.5, 207.5); cells' centres are at 8 i + 3.5
    assert {tuple(peak) for peak in peaks} <= {(6, 6), (6, 7), (7, 6), (7, 7), (25, 24), (25, 25)}
    assert len(peaks) == 2
    for (row, column), (x1, y1, x2, y2) in zip(
        peaks, ((24, 40, 87, 71), (160, 160, 239, 255)), strict=True
    ):
        x, y = 8 * column + 3.5, 8 * row + 3.5
        expected = np.array([x - x1, y - y1, x2 - x, y2 - y]) / BOX_UNIT
        np.testing.assert_allclose(maps[2:, row, column], expected)
    assert not proposal_targets([], 32).any()


def test_the_loss_is_least_for_what_is_right() -> None:
    lesions = [[rectangle(24, 40, 87, 71)], [rectangle(100, 90, 180, 200)], []]
    targets = torch.from_numpy(np.stack([proposal_targets(each, 32) for each in lesions]))
    presence = torch.tensor([8.0, 8.0, -8.0])
    right = targets.clone()
    right[:, :2] = 16 * (targets[:, :2] > 0.98).float() - 8
    right[:, :1] = 16 * targets[:, :1] - 8
    has_presence = torch.ones(3)
    best = proposal_loss(right, presence, targets, has_presence)
    assert (best < 0.2).all()
    shifted = right.roll(6, dims=3)
    assert (proposal_loss(shifted, presence, targets, has_presence)[:2] > best[:2] + 1).all()
    wrong = proposal_loss(right, -presence, targets, has_presence)
    assert (wrong > best + 7).all()
    torch.testing.assert_close(
        proposal_loss(right, -presence, targets, torch.zeros(3)),
        proposal_loss(right, presence, targets, torch.zeros(3)),
    )


def test_a_head_learns_to_point_at_the_bright_lesion(bright_cases: list[UltrasoundCase]) -> None:
    torch.manual_seed(0)
    model = small_model(batch_norm=False).eval()
    head = LesionProposer(embed_dim=EMBED_DIM, width=16)
    samples = LesionDataset(
        bright_cases, image_size=256, augmentation=AugmentationConfig(), seed=0, proposals=True
    )
    batch = collate([samples[index] for _ in range(4) for index in range(len(samples))])
    with torch.no_grad():
        embeddings = model.image_encoder(batch.image, batch.high_frequency)
    optimizer = torch.optim.AdamW(head.parameters(), lr=2e-2)
    for _ in range(60):
        maps, presence = head(embeddings)
        loss = proposal_loss(maps, presence, batch.proposals, torch.ones(len(embeddings))).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        optimizer.step()
    boxes, scores, points, lesion_map = head.propose(embeddings)
    assert points.shape == (len(embeddings), 3, 2)
    assert lesion_map.shape == (len(embeddings), 32, 32)
    assert boxes.shape == (len(embeddings), 3, 4) and (scores[:, 0] > 0.5).all()
    assert (scores[:, 0] >= scores[:, 1]).all()
    for box, mask in zip(boxes[:, 0].detach().numpy(), batch.mask[:, 0].numpy(), strict=True):
        rows, columns = np.nonzero(mask)
        assert box[0] < columns.mean() < box[2] and box[1] < rows.mean() < box[3]


@pytest.mark.parametrize("dataset_proposes", [True, False])
def test_normal_images_teach_the_proposer_alone(
    bright_cases: list[UltrasoundCase], normal_cases: list[UltrasoundCase], dataset_proposes: bool
) -> None:
    config = TrainConfig(precision="fp32", loss=LossWeights(clicks=0.1, proposals=1.0))
    model = small_model(batch_norm=False)
    model.lesion_proposer = LesionProposer(embed_dim=EMBED_DIM, width=8)
    data = TrainingData(bright_cases, bright_cases, normal_cases=normal_cases)
    samples = MaskObjective(model, config, data).samples
    normals = collate([samples[len(bright_cases)], samples[len(bright_cases) + 1]])
    assert not normals.mask_weight.any() and not normals.proposals.any()
    assert (normals.proposal_weights == 1).all()
    if not dataset_proposes:
        normals = dataclasses.replace(normals, proposal_weights=torch.zeros(2, 2))
    MaskObjective(model, config, data)(normals, np.random.default_rng(0)).backward()
    decoder = [p.grad for p in model.mask_decoder.parameters() if p.grad is not None]
    assert not any(gradient.any() for gradient in decoder)
    taught = model.lesion_proposer.maps.weight.grad
    assert taught is not None and bool(taught.any()) == dataset_proposes


def test_the_choice_of_the_best_weights_counts_proposals(
    bright_cases: list[UltrasoundCase],
) -> None:
    model = small_model(batch_norm=False)
    model.lesion_proposer = LesionProposer(embed_dim=EMBED_DIM, width=8)
    data = TrainingData(bright_cases[:1], bright_cases)
    losses = []
    for weight in (0.0, 2.0):
        config = TrainConfig(precision="fp32", loss=LossWeights(proposals=weight))
        objective = MaskObjective(model, config, data)
        losses.append(objective.validate(model).loss)
    batch = collate([objective.val_samples[index] for index in range(len(bright_cases))])
    with torch.no_grad():
        embeddings = model.image_encoder(batch.image, batch.high_frequency)
        maps, presence = model.lesion_proposer(embeddings)
        proposed = proposal_loss(maps, presence, batch.proposals, torch.zeros(len(embeddings)))
    assert losses[1] - losses[0] == pytest.approx(2 * float(proposed.mean()), rel=1e-4)


def test_the_proposer_alone_is_trained(
    bright_cases: list[UltrasoundCase], normal_cases: list[UltrasoundCase]
) -> None:
    loss = LossWeights(proposals=1.0)
    config = TrainConfig(precision="fp32", proposer_only=True, loss=loss, batch_size=2)
    model = small_model(batch_norm=False)
    model.lesion_proposer = LesionProposer(embed_dim=EMBED_DIM, width=8)
    data = TrainingData(bright_cases, bright_cases, normal_cases=normal_cases)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    objective = MaskObjective(model, config, data)
    train_proposer_alone(model)
    learner = Learner(objective, 4, Processes())
    learner.step(iter([collate([objective.samples[0], objective.samples[len(bright_cases)]])]))
    changed = {n for n, t in model.state_dict().items() if not torch.equal(t, before[n])}
    assert changed == {name for name in before if name.startswith("lesion_proposer.")}
    scores = objective.validate(model)
    assert scores.loss > 0 and scores.dice_box is None and scores.dice_point is None


def test_the_proposer_alone_needs_its_loss() -> None:
    with pytest.raises(ValueError, match=r"proposer_only needs loss\.proposals above 0"):
        TrainConfig(proposer_only=True)


def test_the_proposers_loss_needs_a_dataset_that_teaches_it() -> None:
    with pytest.raises(ValueError, match=r"needs a dataset with proposals: true, got none"):
        TrainConfig(loss=LossWeights(proposals=1.0), datasets=(DatasetConfig(folder="thyroid"),))


@pytest.mark.parametrize(
    ("precision", "features", "expected"),
    [
        ("auto", ("avx2",), False),
        ("auto", ("avx2", "avx512_bf16"), True),
        ("auto", ("amx_bf16",), True),
        ("bf16", (), True),
        ("fp32", ("avx512_bf16",), False),
    ],
)
def test_half_precision_where_the_processor_has_it(
    monkeypatch: pytest.MonkeyPatch, precision: str, features: tuple[str, ...], expected: bool
) -> None:
    monkeypatch.setattr("samus_edge.training.objective.cpu_features", lambda: features)
    assert uses_bf16(precision, torch.device("cpu")) is expected
