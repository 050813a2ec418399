"""From a configuration and subsets to a training that is ready to run."""

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path

from samus_edge.data.case import NORMAL_CLASS, CaseCache, select_lesions
from samus_edge.data.dataset import Subsets
from samus_edge.errors import BadArgumentError
from samus_edge.modeling.model_parts import select_trainable
from samus_edge.modeling.samus_hf import SamusHF
from samus_edge.runtime.bundle.bundle import default_bundle_path
from samus_edge.training.batches import StageProgress, TrainingData
from samus_edge.training.config import TrainConfig
from samus_edge.training.learner import Processes
from samus_edge.training.objective import MaskObjective, train_proposer_alone
from samus_edge.training.trainer import Limits, Trainer
from samus_edge.weights.checkpoint_loading import model_from_checkpoint
from samus_edge.weights.foreign_checkpoints import default_checkpoint
from samus_edge.weights.transfer import WeightAccount

DEFAULT_BUNDLE = "default"


def started_model(
    config: TrainConfig, checkpoint: Path | None = None
) -> tuple[SamusHF, WeightAccount]:
    """Build the configured model from a checkpoint, fresh parts by the configured seed.

    Args:
        config: the training configuration.
        checkpoint: any kind that the architecture starts from, or a bundle, or "default" for the
            default bundle; None for the configuration's, or else LiteMedSAM's, which starts `tiny`.

    Returns:
        The model in training mode, with every parameter trainable, and the account of its weights.

    Raises:
        BadArgumentError: if no checkpoint is given for an architecture that needs one.
        MissingExtraError: if LiteMedSAM's checkpoint is wanted and not installed.
        WeightsError: if the checkpoint is damaged or starts another architecture.
    """
    if checkpoint is None and config.start:
        checkpoint = Path(config.start)
    if checkpoint == Path(DEFAULT_BUNDLE) and not checkpoint.exists():
        checkpoint = default_bundle_path()
    if checkpoint is None and config.arch != "tiny":
        raise BadArgumentError(
            f"the architecture {config.arch!r} needs a checkpoint to start from: "
            "sam_vit_b_01ec64.pth (Segment Anything's ViT-B, linked in "
            "https://github.com/facebookresearch/segment-anything), a checkpoint of SAMUS (linked "
            "in https://github.com/xianlin7/SAMUS), or a .safetensors or a bundle of samus-edge of "
            "this architecture. Give it with --start."
        )
    return model_from_checkpoint(
        checkpoint or default_checkpoint(),
        config.arch,
        hf=config.hf,
        gate=config.gate,
        proposer=config.loss.proposals > 0,
        seed=config.seed,
    )


DECODING = "decoding"


def prepare_training(
    config: TrainConfig,
    subsets: Subsets,
    out_dir: Path,
    *,
    start: Path | None = None,
    cache: Path | None = None,
    processes: Processes | None = None,
    limits: Limits | None = None,
    progress: Callable[[StageProgress], None] = lambda progress: None,
) -> tuple[Trainer, TrainingData, WeightAccount]:
    """Build what a configuration describes, ready to run or to go on.

    Args:
        config: the training configuration.
        subsets: `train` and `val`; normal images are trained on if the configuration says so.
        out_dir: folder of the run; a state found there is resumed.
        start: checkpoint to start from; None for the architecture's own.
        cache: folder of decoded images and masks; None to hold them in memory.
        processes: this process among those that train together.
        limits: what ends the training beside its epochs.
        progress: called while the cache is filled.

    Returns:
        The trainer, its cases, and the account of the start weights.

    Raises:
        BadArgumentError: if the configuration does not fit the model or the data.
        WeightsError: if a checkpoint is not what it should be.
        DataError: if a case cannot be read or has no lesion.
    """
    processes = processes or Processes()
    model, account = started_model(config, start)
    select_trainable(model, train_decoder=config.train_decoder, unfreeze=config.unfreeze)
    if config.proposer_only:
        train_proposer_alone(model)
    normals = [case for case in subsets.train if case.class_name == NORMAL_CLASS]
    data = TrainingData(
        train_cases=select_lesions(subsets.train),
        val_cases=select_lesions(subsets.val),
        normal_cases=normals if config.normals or config.loss.proposals else (),
        datasets=config.datasets,
    )
    if cache is not None:
        with processes.first_before_others():
            data = dataclasses.replace(data, source=_filled_cache(cache, data, progress))
    trainer = Trainer(MaskObjective(model, config, data), out_dir, processes, limits or Limits())
    return trainer, data, account


def _filled_cache(
    folder: Path, data: TrainingData, progress: Callable[[StageProgress], None]
) -> CaseCache:
    """The cache with every case in it, so that broken files are named before the training."""
    source = CaseCache(folder)
    cases = (*data.train_cases, *data.normal_cases, *data.val_cases)
    done = itertools.count(1)
    source.fill(cases, lambda case: progress(StageProgress(DECODING, next(done), len(cases))))
    return source
