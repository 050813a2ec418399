"""What is scored in one evaluation: kinds of prompt, on kinds of image."""

from collections.abc import Sequence
from dataclasses import dataclass

from samus_edge.evaluation.image_perturbation import ImagePerturbation
from samus_edge.evaluation.instance_score import AS_IS
from samus_edge.evaluation.prompt_protocol import PromptProtocol

__all__ = ["Variant", "merge_variants"]


@dataclass(frozen=True)
class Variant:
    """Prompts that are given on the images as they are, or on perturbed images."""

    protocols: tuple[PromptProtocol, ...]
    perturbation: ImagePerturbation | None = None

    @property
    def image(self) -> str:
        """Name of the images in reports."""
        return AS_IS if self.perturbation is None else self.perturbation.name


def merge_variants(variants: Sequence[Variant]) -> list[Variant]:
    """One variant per image with each protocol once, so that all prompts share one encoding."""
    perturbations = {variant.image: variant.perturbation for variant in variants}
    protocols: dict[str, dict[str, PromptProtocol]] = {image: {} for image in perturbations}
    for variant in variants:
        for protocol in variant.protocols:
            protocols[variant.image].setdefault(protocol.name, protocol)
    return [
        Variant(tuple(protocols[image].values()), perturbation)
        for image, perturbation in perturbations.items()
    ]
