"""A model with the weights that a training starts from."""

from pathlib import Path

from samus_edge.modeling.samus_hf import SamusHF
from samus_edge.training.config import TrainConfig
from samus_edge.weights.account import WeightAccount
from samus_edge.weights.checkpoint_loading import model_from_checkpoint
from samus_edge.weights.lite_medsam import default_checkpoint


def started_model(
    config: TrainConfig, checkpoint: Path | None = None
) -> tuple[SamusHF, WeightAccount]:
    """Build the configured model from a checkpoint, fresh parts by the configured seed.

    Args:
        config: the training configuration.
        checkpoint: of any kind that the architecture starts from; None for LiteMedSAM's, which
            starts `tiny`.

    Returns:
        The model in training mode, with every parameter trainable, and the account of its weights.

    Raises:
        ValueError: if no checkpoint is given for an architecture that needs one.
        MissingExtraError: if LiteMedSAM's checkpoint is wanted and not installed.
        WeightsError: if the checkpoint is damaged or starts another architecture.
    """
    if checkpoint is None and config.arch != "tiny":
        raise ValueError(
            f"the architecture {config.arch!r} needs a checkpoint to start from: "
            "sam_vit_b_01ec64.pth (Segment Anything's ViT-B, linked in "
            "https://github.com/facebookresearch/segment-anything), a checkpoint of SAMUS (linked "
            "in https://github.com/xianlin7/SAMUS), or a .safetensors of samus-edge of this "
            "architecture. Give it with --start."
        )
    return model_from_checkpoint(
        checkpoint or default_checkpoint(),
        config.arch,
        hf=config.hf,
        gate=config.gate,
        seed=config.seed,
    )
