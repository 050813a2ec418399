"""A model with the weights that a training starts from."""

from pathlib import Path

import torch

from samus_edge.modeling.builders import samus_hf_tiny
from samus_edge.modeling.samus_hf import SamusHF
from samus_edge.training.config import TrainConfig
from samus_edge.weights.account import WeightAccount
from samus_edge.weights.lite_medsam import load_lite_medsam


def started_model(config: TrainConfig, checkpoint: Path) -> tuple[SamusHF, WeightAccount]:
    """Build the configured model, fresh parts by the configured seed, the rest from LiteMedSAM.

    Args:
        config: the training configuration.
        checkpoint: `lite_medsam.pth`.

    Returns:
        The model and the account of its weights.

    Raises:
        WeightsError: if the checkpoint is not LiteMedSAM's.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = samus_hf_tiny(hf=config.hf, gate=config.gate)
    return model, load_lite_medsam(model, checkpoint)
