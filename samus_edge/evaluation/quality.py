"""How far masks can be trusted: fitted on masks of known truth, and held against others.

The prompts are as people give them: boxes off by up to 5 and 20 %, a point anywhere inside, and
corrective clicks after either. Fitting takes validation data, of several datasets where there are
several; `samus_edge.runtime.quality` has what is fitted, docs/quality.md how good it is.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from samus_edge.data.case import UltrasoundCase, read_image, read_instances, select_lesions
from samus_edge.data.prompt_protocol import (
    case_generator,
    jittered_box,
    simulate_correction,
)
from samus_edge.errors import BundleError, DataError
from samus_edge.evaluation.metrics import Mask, dice
from samus_edge.reporting.figure import COLOURS, MARKERS, new_figure, png_bytes
from samus_edge.runtime import Bundle, Prediction, Segmenter, measure_lesion
from samus_edge.runtime.bundle.manifest import MANIFEST_FILE
from samus_edge.runtime.bundle.records import JsonValue, to_json
from samus_edge.runtime.prompts import check_prompts
from samus_edge.runtime.quality import (
    COVERAGE,
    FEATURES,
    GOOD_DICE,
    QualityCalibration,
    SizeFactors,
    mask_features,
    read_calibration,
)

Floats = npt.NDArray[np.float64]

KINDS: Final = ("box 5 %", "box 20 %", "point", "point and 2 corrections", "box and correction")
MIN_LESIONS: Final = 50
"""From so many on a calibration is fitted anew; with fewer an earlier one is adapted."""
_MASKS_PER_RANGE, _MAX_RANGES = 100, 6
_PULL, _PULL_OF_FEW = 1.0, 10.0  # towards 0, or the earlier coefficients; in standard deviations


@dataclass(frozen=True)
class JudgedMask:
    """A mask, and what is known of it.

    Attributes:
        dataset: of its image.
        lesion: key of the case and number of the lesion in it.
        kind: of prompt, one of `KINDS`.
        features: see `mask_features`; None for an empty mask.
        predicted_iou: by the network.
        dice: with the truth.
        ratios: true area and longest diameter as parts of those of the mask; None for an empty one.
    """

    dataset: str
    lesion: tuple[str, int]
    kind: str
    features: tuple[float, ...] | None
    predicted_iou: float
    dice: float
    ratios: tuple[float, float] | None


def judge_cases(
    segmenter: Segmenter,
    cases: Sequence[UltrasoundCase],
    *,
    limit: int | None = None,
    seed: int = 0,
    on_case: Callable[[], object] = lambda: None,
) -> list[JudgedMask]:
    """Segment the lesions of cases from every kind of prompt.

    Args:
        segmenter: what segments.
        cases: of any datasets; those without a lesion are passed over.
        limit: images of each dataset, evenly from the list; None for all.
        seed: of the prompts, together with the key of the case.
        on_case: called after each image.
    """
    found = []
    for _, group in groupby(select_lesions(cases), lambda case: case.dataset):
        listed = list(group)
        step = max(1.0, len(listed) / (limit or len(listed)))
        for index in range(math.ceil(len(listed) / step)):
            case = listed[int(index * step)]
            embedding = segmenter.encode(read_image(case))
            for number, truth in enumerate(read_instances(case)):
                sizes = measure_lesion(truth)
                assert sizes is not None
                rng = case_generator(case.key, number, seed)
                for kind, prediction, features in _prompted(segmenter, embedding, truth, rng):
                    mask = prediction.masks[0, 0]
                    measured = measure_lesion(mask)
                    ratios = None
                    if measured is not None:
                        diameter = sizes.longest.length / measured.longest.length
                        ratios = (sizes.area / measured.area, diameter)
                    found.append(
                        JudgedMask(
                            case.dataset,
                            (case.key, number),
                            kind,
                            None if features is None else tuple(features.tolist()),
                            float(prediction.iou_predictions[0, 0]),
                            dice(mask, truth),
                            ratios,
                        )
                    )
            on_case()
    return found


def _prompted(
    segmenter: Segmenter, embedding: Any, truth: Mask, rng: np.random.Generator
) -> Iterator[tuple[str, Prediction, Floats | None]]:
    """The mask of each kind of prompt with its features."""

    def predict(**prompt: Any) -> tuple[Prediction, Floats | None]:
        prediction = segmenter.predict(embedding, **prompt)
        (features,) = mask_features(
            prediction.low_res_logits,
            prediction.iou_predictions,
            check_prompts(truth.shape, **prompt),
            segmenter.bundle.manifest.mask_threshold,
        )
        return prediction, features

    careful, careless = (jittered_box(truth, jitter, rng) for jitter in (0.05, 0.2))
    rows, columns = np.nonzero(truth)
    pixel = rng.integers(len(rows))
    clicks, labels = [[float(columns[pixel]), float(rows[pixel])]], [1]
    yield KINDS[0], *predict(boxes=[careful])
    boxed = predict(boxes=[careless])
    yield KINDS[1], *boxed
    clicked = predict(point_coords=[clicks], point_labels=[labels])
    yield KINDS[2], *clicked
    for _ in range(2):
        click, label = simulate_correction(truth, clicked[0].masks[0, 0], rng)
        clicks, labels = [*clicks, click[0].tolist()], [*labels, label]
        clicked = predict(point_coords=[clicks], point_labels=[labels])
    yield KINDS[3], *clicked
    click, label = simulate_correction(truth, boxed[0].masks[0, 0], rng)
    yield KINDS[4], *predict(boxes=[careless], point_coords=[click], point_labels=[[label]])


def calibrate_quality(
    bundle: Path | str | None,
    cases: Sequence[UltrasoundCase],
    about: Mapping[str, JsonValue],
    *,
    limit: int | None = None,
    seed: int = 0,
    on_case: Callable[[], object] = lambda: None,
) -> QualityCalibration:
    """Fit how far a bundle's masks can be trusted, and write it into its manifest.

    Args:
        bundle: folder of the bundle; None for the default bundle.
        cases: with masks, neither trained on nor tested on; with fewer than 50 lesions the
            calibration that the bundle has, or else the default bundle's, is adapted.
        about: what the cases are, for the manifest.
        limit: see `judge_cases`.
        seed: see `judge_cases`.
        on_case: see `judge_cases`.

    Raises:
        BundleError: if the bundle is a zip file, which is only read, or signed.
        DataError: if there are too few lesions, and no calibration to adapt.
        OutputFileError: if the manifest cannot be written.
    """
    opened = Bundle.open(bundle)
    folder = opened.unsigned_folder
    base = read_calibration(opened.manifest.quality) or default_calibration()
    with Segmenter.load(bundle, backend="onnxruntime") as segmenter:
        found = judge_cases(segmenter, cases, limit=limit, seed=seed, on_case=on_case)
    fitted = fit_quality(found, {**about, "seed": seed}, base)
    replace(opened.manifest, quality=to_json(fitted)).write(folder / MANIFEST_FILE)
    return fitted


def default_calibration() -> QualityCalibration | None:
    """The default bundle's; None where there is no such bundle, or it has none."""
    try:
        return read_calibration(Bundle.open().manifest.quality)
    except BundleError:
        return None


def fit_quality(
    found: Sequence[JudgedMask],
    about: Mapping[str, JsonValue],
    base: QualityCalibration | None = None,
) -> QualityCalibration:
    """Fit a calibration, or adapt an earlier one to few lesions.

    The logistic model is fitted by Newton's method with a quadratic penalty. Intervals are split
    conformal (Lei et al., 2018), by range of probability; of few lesions, those of the earlier
    calibration, widened as far as these lesions ask for.

    Args:
        found: masks of known truth.
        about: what they are of, for the manifest.
        base: the earlier calibration.

    Raises:
        DataError: if there are fewer than 50 lesions and no earlier calibration, or no mask.
    """
    lesions = Counter(dataset for dataset, _ in {(each.dataset, each.lesion) for each in found})
    is_few = lesions.total() < MIN_LESIONS
    judged = [each for each in found if each.features is not None and each.ratios is not None]
    if not judged or (is_few and base is None):
        raise DataError(
            f"how far masks can be trusted takes {MIN_LESIONS} lesions with masks of their own, "
            f"got {lesions.total()} with {len(judged)} masks found. Give more."
        )
    features = np.array([each.features for each in judged])  # (N, F)
    is_good = np.array([each.dice >= GOOD_DICE for each in judged])
    prior = base if is_few else None
    fitted = QualityCalibration(
        coefficients=_logistic(features, is_good, prior),
        factors=(SizeFactors(0.0, (1.0, 1.0), (1.0, 1.0)),),
        data={
            **about,
            "lesions": dict(lesions),
            "masks": len(found),
            "prompts": list(KINDS),
            "good": round(float(is_good.mean()), 4),
            **({"adapted_from": dict(prior.data)} if prior is not None else {}),
        },
    )
    logs = np.log(np.array([each.ratios for each in judged]))  # (N, 2)
    chances = fitted.probability(features)
    if prior is not None:
        return replace(fitted, factors=_widened(prior, chances, logs))
    count = min(max(len(judged) // _MASKS_PER_RANGE, 1), _MAX_RANGES)
    starts = np.unique([0.0, *np.quantile(chances, np.arange(1, count) / count).round(4)])
    in_range = np.searchsorted(starts, chances, side="right") - 1
    factors = []
    for index, start in enumerate(starts):
        area, diameter = (_ends(column) for column in logs[in_range == index].T)
        factors.append(SizeFactors(float(start), area, diameter))
    return replace(fitted, factors=tuple(factors))


def _logistic(
    features: Floats, is_good: npt.NDArray[np.bool_], prior: QualityCalibration | None
) -> dict[str, float]:
    """Coefficients by name, pulled towards earlier ones or 0."""
    names = ("intercept", *FEATURES)
    middle, spread = features.mean(axis=0), features.std(axis=0)
    spread[spread < 1e-6] = 1.0  # says nothing here
    scaled = np.column_stack([np.ones(len(features)), (features - middle) / spread])
    towards = np.zeros(len(names))
    if prior is not None:
        raw = np.array([prior.coefficients[name] for name in names])
        towards = np.array([raw[0] + raw[1:] @ middle, *(raw[1:] * spread)])
    pull = np.full(len(names), _PULL if prior is None else _PULL_OF_FEW)
    pull[0] /= 10
    weights = towards.copy()
    for _ in range(100):
        chances = 0.5 + 0.5 * np.tanh(scaled @ weights / 2)
        slope = scaled.T @ (is_good - chances) - pull * (weights - towards)
        curvature = (scaled.T * (chances * (1 - chances))) @ scaled + np.diag(pull)
        step = np.linalg.solve(curvature, slope)
        weights += step * min(1.0, 2.0 / float(np.abs(step).max() + 1e-12))
        if np.abs(step).max() < 1e-9:
            break
    raw = weights[1:] / spread
    values = [weights[0] - float(raw @ middle), *raw]
    return {name: round(float(value), 6) for name, value in zip(names, values, strict=True)}


def _ends(logs: Floats) -> tuple[float, float]:
    """The factors between which nine of ten further ones lie, at either end one of twenty out."""
    ordered, count = np.sort(logs), len(logs)
    rank = math.floor((count + 1) * (1 - COVERAGE) / 2)
    low, high = ordered[max(rank - 1, 0)], ordered[min(count - rank, count - 1)]
    return round(math.exp(low), 4), round(math.exp(high), 4)


def _widened(base: QualityCalibration, chances: Floats, logs: Floats) -> tuple[SizeFactors, ...]:
    """Earlier factors, widened about their middle until nine of ten of these ratios are inside."""
    starts = np.array([each.from_probability for each in base.factors])
    in_range = np.searchsorted(starts, chances, side="right") - 1
    ends = np.log([(each.area, each.diameter) for each in base.factors])  # (ranges, 2, 2)
    middle, half = ends.mean(axis=2), np.maximum(np.diff(ends)[..., 0] / 2, 1e-3)
    scores = np.sort(np.abs(logs - middle[in_range]) / half[in_range], axis=0)  # (N, 2)
    rank = min(math.ceil((len(scores) + 1) * COVERAGE), len(scores))
    half = half * np.maximum(scores[rank - 1], 1.0)
    factors = np.exp(np.stack([middle - half, middle + half], axis=-1)).round(4).tolist()
    return tuple(
        SizeFactors(float(start), tuple(area), tuple(diameter))
        for start, (area, diameter) in zip(starts, factors, strict=True)
    )


def probabilities(calibration: QualityCalibration, found: Sequence[JudgedMask]) -> Floats:
    """(N,): what a calibration says of masks."""
    return np.array(
        [
            0.0
            if each.features is None
            else float(calibration.probability(np.array(each.features))[0])
            for each in found
        ]
    )


def expected_calibration_error(
    chances: Floats, is_good: npt.NDArray[np.bool_], bins: int = 10
) -> float:
    """Mean distance of probability and share of good ones, over bins of equal width (Guo, 2017)."""
    of_bin = np.minimum((chances * bins).astype(int), bins - 1)
    gaps = np.bincount(of_bin, chances - is_good, bins)
    return float(np.abs(gaps).sum() / len(chances))


def failure_auroc(scores: Floats, is_good: npt.NDArray[np.bool_]) -> float:
    """The chance that a good mask is scored above a poor one; ties count half. NaN without both."""
    good, poor = scores[is_good], np.sort(scores[~is_good])
    if not len(good) or not len(poor):
        return math.nan
    below = np.searchsorted(poor, good, "left") + np.searchsorted(poor, good, "right")
    return float(below.mean() / (2 * len(poor)))


def risk_at_coverage(scores: Floats, dices: Floats) -> tuple[Floats, Floats]:
    """Share of masks that are kept, best scored first, and the mean 1 - Dice of these."""
    order = np.argsort(-scores, kind="stable")
    kept = np.arange(1, len(scores) + 1)
    return kept / len(scores), np.cumsum(1 - dices[order]) / kept


def quality_figures(
    calibration: QualityCalibration, found: Sequence[JudgedMask]
) -> dict[str, float]:
    """A calibration held against masks of known truth, the network's predicted IoU beside it."""
    chances, dices = probabilities(calibration, found), np.array([each.dice for each in found])
    raw = np.array([min(max(each.predicted_iou, 0.0), 1.0) for each in found])
    is_good = dices >= GOOD_DICE
    inside = []
    for each in found:
        if each.features is not None and each.ratios is not None:
            quality = calibration.quality(np.array(each.features))
            ends = (quality.area_factors, quality.diameter_factors)
            inside.append(
                [low <= x <= high for x, (low, high) in zip(each.ratios, ends, strict=True)]
            )
    covered = np.mean(inside, axis=0) if inside else (math.nan, math.nan)
    return {
        "masks": len(found),
        "good": float(is_good.mean()),
        "expected_calibration_error": expected_calibration_error(chances, is_good),
        "failure_auroc": failure_auroc(chances, is_good),
        "area_covered": float(covered[0]),
        "diameter_covered": float(covered[1]),
        "called_ok": float((chances >= 0.9).mean()),
        "good_of_ok": float(is_good[chances >= 0.9].mean()) if (chances >= 0.9).any() else math.nan,
        "area_under_risk": float(risk_at_coverage(chances, dices)[1].mean()),
        "predicted_iou_calibration_error": expected_calibration_error(raw, is_good),
        "predicted_iou_failure_auroc": failure_auroc(raw, is_good),
        "predicted_iou_area_under_risk": float(risk_at_coverage(raw, dices)[1].mean()),
    }


def draw_quality(
    scores: Mapping[str, Floats], dices: Floats, auroc: Mapping[str, Mapping[str, float]]
) -> bytes:
    """A PNG of reliability, risk by coverage, and failure AUROC by dataset.

    Args:
        scores: (N,) by the name of what scores, at most six.
        dices: (N,), of the same masks.
        auroc: by dataset, then by the name of what scores.
    """
    figure = new_figure(12.0, 3.9)
    reliability, risk, bars = (figure.add_subplot(1, 3, place) for place in (1, 2, 3))
    is_good = dices >= GOOD_DICE
    reliability.plot([0, 1], [0, 1], color="#999999", linewidth=0.8)
    for (name, values), colour, marker in zip(scores.items(), COLOURS, MARKERS, strict=False):
        of_bin = np.minimum((values * 10).astype(int), 9)
        bins = [of_bin == index for index in range(10) if (of_bin == index).sum() >= 5]
        said, found = ([v[each].mean() for each in bins] for v in (values, is_good))
        reliability.plot(said, found, marker=marker, color=colour, label=name)
        coverage, mean_risk = risk_at_coverage(values, dices)
        risk.plot(coverage, mean_risk, color=colour, label=name)
    width = 0.8 / len(scores)
    for number, (name, colour) in enumerate(zip(scores, COLOURS, strict=False)):
        places = np.arange(len(auroc)) + number * width
        bars.bar(places, [each[name] for each in auroc.values()], width, color=colour)
    bars.set_xticks(np.arange(len(auroc)) + 0.4 - width / 2, list(auroc), rotation=40)
    bars.set_ylim(0.5, 1.0)
    bars.set_title("Failure AUROC, held-out parts")
    reliability.set(xlabel="said: chance that a mask is good", ylabel="found: share of good masks")
    risk.set(xlabel="share of masks kept, best scored first", ylabel="mean 1 - Dice of them")
    reliability.set_title("Reliability")
    risk.set_title("Risk by coverage")
    reliability.legend()
    return png_bytes(figure)
