"""Settings of learning from a teacher."""

from dataclasses import dataclass

from samus_edge.settings_checks import BELOW_ONE, FRACTION, NOT_NEGATIVE, POSITIVE, find_problems

TEACHERS = ("none", "lite_medsam")


@dataclass(frozen=True)
class DistillationConfig:
    """What is learned from a teacher before and while masks are learned.

    Attributes:
        teacher: "lite_medsam", "none", or the path of weights of ours (`.safetensors`).
        views: random views of each training image that the teacher encodes, once.
        epochs: passes over these views in which the encoder learns the teacher's embeddings, before
            the training on masks.
        learning_rate: peak rate of these passes.
        ema_decay: decay per step of the averaged encoder that they end with.
        mask_weight: share of the loss that compares with the teacher's masks, rather than with the
            annotated ones.
        min_teacher_dice: a teacher's mask that agrees less with the annotated one is not used.
    """

    teacher: str = "none"
    views: int = 4
    epochs: int = 10
    learning_rate: float = 1e-3
    ema_decay: float = 0.995
    mask_weight: float = 0.0
    min_teacher_dice: float = 0.7

    def __post_init__(self) -> None:
        """Check every value.

        Raises:
            ValueError: naming every bad one.
        """
        bounds = {
            "views": POSITIVE,
            "epochs": NOT_NEGATIVE,
            "learning_rate": POSITIVE,
            "ema_decay": BELOW_ONE,
            "mask_weight": FRACTION,
            "min_teacher_dice": FRACTION,
        }
        problems = find_problems(self, bounds, prefix="distillation.")
        is_text = isinstance(self.teacher, str)
        if is_text and self.teacher not in TEACHERS and not self.teacher.endswith(".safetensors"):
            problems.append(
                "distillation.teacher must be none, lite_medsam or a .safetensors file, got "
                f"{self.teacher!r}"
            )
        if self.teacher == "none" and self.mask_weight:
            problems.append(
                f"distillation.mask_weight must be 0 without a teacher, got {self.mask_weight}"
            )
        if problems:
            raise ValueError("; ".join(problems))
