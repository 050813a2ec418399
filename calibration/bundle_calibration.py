"""Further precisions for a bundle: fp16 and int8 graphs made from its float32 ones."""

import hashlib
import shutil
import stat
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import onnx
from onnx import ModelProto

from samus_edge.calibration.activation_ranges import Feeds, Ranges, measure_ranges
from samus_edge.calibration.half_precision import (
    HEADROOM,
    KeptNode,
    float_tensors,
    nodes_to_keep,
    to_half_precision,
)
from samus_edge.calibration.quantisation import (
    RECIPES,
    QuantisationRecipe,
    quantisable_nodes,
    quantise,
)
from samus_edge.calibration.sensitivity import (
    NO_MODULE,
    BudgetedChoice,
    block_of,
    choose_blocks,
    measure_sensitivity,
)
from samus_edge.errors import BadArgumentError, SamusEdgeError
from samus_edge.export.graph_cleanup import graph_file
from samus_edge.export.weight_storage import expand_weights, store_compactly
from samus_edge.runtime.bundle.bundle import Bundle
from samus_edge.runtime.bundle.manifest import (
    FORMAT_VERSION,
    IMAGE_ENCODER,
    MANIFEST_FILE,
    MASK_DECODER,
    GraphRecord,
    GraphSelection,
)
from samus_edge.runtime.bundle.records import JsonValue
from samus_edge.runtime.bundle.signature import SIGNATURE_FILE
from samus_edge.runtime.images.output_files import draft_folder, write_files_atomically
from samus_edge.verification.comparison import MaskAgreement, MaskComparison
from samus_edge.verification.frames import PromptedFrame, frames_digest

HALF = "fp16"
CALIBRATED_PRECISIONS = (HALF, *RECIPES)
DEFAULT_BUDGET = 0.5
"""Dice points (0..100) that an int8 encoder may lose on the calibration frames."""

HALF_GRID_OPSET = 19
"""The first ONNX operator set whose Q/DQ pairs take half precision."""

NO_MODULES_NOTE = (
    "the nodes of {files} do not name their modules: blocks cannot be told apart, and half "
    "precision may keep too few nodes in float32. Export the bundle again: "
    "samus-edge export --bundle"
)


@dataclass(frozen=True)
class CalibrationSettings:
    """How precisions are made.

    Attributes:
        precisions: one or more of `CALIBRATED_PRECISIONS`.
        max_dice_drop: budget of an int8 encoder on the calibration frames, Dice points.
        seed: seed that the frames were drawn with, for the record.
    """

    precisions: tuple[str, ...]
    max_dice_drop: float = DEFAULT_BUDGET
    seed: int = 0

    def __post_init__(self) -> None:
        """Check all of it."""
        unknown = [name for name in self.precisions if name not in CALIBRATED_PRECISIONS]
        if unknown or not self.precisions:
            raise BadArgumentError(
                f"precisions must be of {', '.join(CALIBRATED_PRECISIONS)}, "
                f"got {', '.join(unknown) or 'none'}."
            )
        if not 0 <= self.max_dice_drop <= 100:
            raise BadArgumentError(
                f"max_dice_drop must be from 0 to 100 points, got {self.max_dice_drop}."
            )


@dataclass(frozen=True)
class CalibrationResult:
    """The result of `calibrate_bundle`.

    Attributes:
        bundle: the written bundle.
        kept_in_fp32: nodes that half precision leaves in float32, by graph.
        int8: the blocks of the image encoder on 8 bits, by precision.
        notes: sentences that a user should read.
    """

    bundle: Bundle
    kept_in_fp32: Mapping[str, tuple[KeptNode, ...]]
    int8: Mapping[str, BudgetedChoice]
    notes: tuple[str, ...] = ()


def calibrate_bundle(
    bundle: Bundle,
    folder: Path,
    frames: Sequence[PromptedFrame],
    settings: CalibrationSettings,
    *,
    data: str,
    overwrite: bool = False,
    check: Callable[[Path], None] = lambda draft: None,
    report: Callable[[str], None] = lambda stage: None,
) -> CalibrationResult:
    """Write a copy of a bundle that offers further precisions.

    Args:
        bundle: a bundle in a folder, with the float32 graphs to start from.
        folder: folder of the copy; may be that of the bundle itself.
        frames: calibration frames, not those that results are reported on.
        settings: precisions and budget.
        data: the frames' origin in words, for the record.
        overwrite: whether an existing bundle at ``folder`` is replaced.
        check: called with the finished draft before it is put in place; may raise to refuse it,
            and may add to its manifest.
        report: called with each stage as it starts.

    Raises:
        SamusEdgeError: if ``folder`` exists and is not to be overwritten, or the bundle cannot be
            calibrated; nothing is left at ``folder``.
        BadArgumentError: if there are no frames.
    """
    if not frames:
        raise BadArgumentError("frames must hold at least one frame, got none.")
    source = bundle.folder
    if folder.resolve() != source.resolve() and folder.resolve().is_relative_to(source.resolve()):
        raise SamusEdgeError(
            f"{folder} is within the bundle {source}. Give a folder outside of it."
        )
    with draft_folder(folder, kind="a bundle", marker=MANIFEST_FILE, overwrite=overwrite) as draft:
        run = _Calibration(bundle, frames, settings, data, report)
        # A signature is of the bundle as it was.
        unsigned = shutil.ignore_patterns(SIGNATURE_FILE)
        shutil.copytree(source, draft, dirs_exist_ok=True, ignore=unsigned)
        draft.chmod(draft.stat().st_mode | stat.S_IRWXU)  # the bundle's own may be read-only
        run.write(draft)
        check(draft)
    return CalibrationResult(Bundle.open(folder), run.kept, run.int8, run.notes())


class _Calibration:
    """One run over all precisions."""

    def __init__(
        self,
        bundle: Bundle,
        frames: Sequence[PromptedFrame],
        settings: CalibrationSettings,
        data: str,
        report: Callable[[str], None],
    ) -> None:
        self.bundle, self.frames, self.settings = bundle, frames, settings
        self.data, self.report = data, report
        self.kept: dict[str, tuple[KeptNode, ...]] = {}
        self.int8: dict[str, BudgetedChoice] = {}
        self.ranges: Ranges | None = None
        self.graphs = {name: self._float_graph(name) for name in (IMAGE_ENCODER, MASK_DECODER)}
        self._check_opset()
        self._check_frame_sizes()
        report(f"reference masks of {len(frames)} frames")
        self.comparison = MaskComparison(bundle, frames)

    def notes(self) -> tuple[str, ...]:
        """Sentences that a user should read."""
        files = [
            self.bundle.graph_record(name).file
            for name, graph in self.graphs.items()
            if all(
                block_of(node.name) == NO_MODULE or node.name.startswith("preprocessing/")
                for node in graph.graph.node
            )
        ]
        return (NO_MODULES_NOTE.format(files=" and ".join(files)),) if files else ()

    def write(self, draft: Path) -> None:
        """Make every precision and record it in the draft's manifest."""
        records: dict[str, GraphRecord] = {}
        selections: dict[str, GraphSelection] = {}
        recipes = [RECIPES[name] for name in self.settings.precisions if name in RECIPES]
        needs_half = HALF in self.settings.precisions
        half_decoder = MASK_DECODER
        if needs_half or any(recipe.half_precision for recipe in recipes):
            half_decoder = f"{MASK_DECODER}.{HALF}"
            records[half_decoder] = self._write_half(MASK_DECODER, half_decoder, draft)
        if needs_half:
            half_encoder = f"{IMAGE_ENCODER}.{HALF}"
            records[half_encoder] = self._write_half(IMAGE_ENCODER, half_encoder, draft)
            selections[HALF] = GraphSelection(half_encoder, half_decoder)
        for recipe in recipes:
            name = f"{IMAGE_ENCODER}.{recipe.name}"
            records[name] = self._write_int8(recipe, name, draft)
            decoder = half_decoder if recipe.half_precision else MASK_DECODER
            selections[recipe.name] = GraphSelection(name, decoder)
        manifest = self.bundle.manifest
        precisions = {**manifest.precisions, **selections}
        # what was verified of a precision one of whose graphs is made anew holds no longer
        stale = {
            name
            for name, graphs in precisions.items()
            if {graphs.image_encoder, graphs.mask_decoder} & set(records)
        }
        verification = {
            name: item for name, item in manifest.verification.items() if name not in stale
        }
        replace(
            manifest,
            format_version=FORMAT_VERSION,
            graphs={**manifest.graphs, **records},
            precisions=precisions,
            verification=verification,
        ).write(draft / MANIFEST_FILE)

    def _check_opset(self) -> None:
        """Refuse what the bundle's operator set cannot say."""
        record = self.bundle.graph_record(IMAGE_ENCODER)
        names = [
            name
            for name in self.settings.precisions
            if name in RECIPES and RECIPES[name].half_precision
        ]
        if names and record.opset < HALF_GRID_OPSET:
            raise SamusEdgeError(
                f"{record.file} has operator set {record.opset}, and {', '.join(names)} needs "
                f"{HALF_GRID_OPSET} or newer. Export the bundle again with --opset 20."
            )

    def _check_frame_sizes(self) -> None:
        """Refuse frames that an image encoder of one frame size does not take."""
        (image,) = self.bundle.graph_record(IMAGE_ENCODER).inputs
        others = [
            f"{frame.name} ({frame.image.shape[1]}x{frame.image.shape[0]})"
            for frame in self.frames
            if not image.accepts("uint8", (1, *frame.image.shape))
        ]
        if others:
            raise SamusEdgeError(
                f"the image encoder takes frames of {image.shape[2]}x{image.shape[1]} pixels "
                f"alone, not {', '.join(others)}. Calibrate on frames of this size, or the bundle "
                "without --frame-size."
            )

    def _float_graph(self, name: str) -> ModelProto:
        record = self.bundle.graph_record(name)
        if record.precision != "fp32" or record.external_data:
            raise SamusEdgeError(
                f"{record.file} is in {record.precision}"
                f"{' with external data' if record.external_data else ''}. "
                "Calibrate a bundle as `samus-edge export` writes it."
            )
        graph = onnx.load_from_string(self.bundle.read_graph(name))
        expand_weights(graph)
        return graph

    def _write_half(self, source: str, name: str, draft: Path) -> GraphRecord:
        self.report(f"{name}: ranges of all tensors")
        kept = self._nodes_to_keep(source)
        graph = to_half_precision(self.graphs[source], [node.name for node in kept])
        about: dict[str, JsonValue] = {
            "method": "mixed half precision: these nodes compute in float32, all others in float16",
            **self._provenance(),
            "headroom": HEADROOM,
            "kept_in_fp32": _kept_json(kept),
        }
        return self._write_graph(graph, source, name, HALF, HALF, about, draft)

    def _nodes_to_keep(self, source: str) -> tuple[KeptNode, ...]:
        if source not in self.kept:
            graph = self.graphs[source]
            constants = {item.name for item in graph.graph.initializer}
            samples: Sequence[Feeds] = (
                self._encoder_samples()
                if source == IMAGE_ENCODER
                else self.comparison.decoder_feeds()
            )
            tensors = sorted(float_tensors(graph) - constants)
            ranges = measure_ranges(graph, tensors, samples)
            max_abs = {tensor: max(-low, high) for tensor, (low, high) in ranges.items()}
            self.kept[source] = tuple(nodes_to_keep(graph, max_abs))
        return self.kept[source]

    def _write_int8(self, recipe: QuantisationRecipe, name: str, draft: Path) -> GraphRecord:
        graph = self.graphs[IMAGE_ENCODER]
        if self.ranges is None:
            self.ranges = self._measure()
        ranges = self.ranges

        def compare(nodes: Collection[str]) -> MaskAgreement:
            return self.comparison.compare(quantise(graph, nodes, ranges, recipe))

        blocks = measure_sensitivity(
            quantisable_nodes(graph, recipe),
            compare,
            on_block=lambda block: self.report(f"{name}: {block} alone"),
        )
        choice = choose_blocks(
            blocks,
            compare,
            max_dice_drop=self.settings.max_dice_drop,
            on_trial=lambda count: self.report(f"{name}: {count} of {len(blocks)} blocks together"),
        )
        self.int8[recipe.name] = choice
        quantised = quantise(graph, choice.nodes, ranges, recipe)
        kept: tuple[KeptNode, ...] = ()
        if recipe.half_precision:
            kept = self._nodes_to_keep(IMAGE_ENCODER)
            quantised = to_half_precision(quantised, [node.name for node in kept])
        else:
            store_compactly(quantised)
        about: dict[str, JsonValue] = {
            "method": "static quantisation, int8 weights per output channel, activations "
            + ("int8 symmetric" if recipe.symmetric else "uint8 with zero point"),
            "rest": HALF if recipe.half_precision else "fp32",
            "ranges": "minmax",
            **self._provenance(),
            **({"kept_in_fp32": _kept_json(kept)} if recipe.half_precision else {}),
            "max_dice_drop": self.settings.max_dice_drop,
            "dice_drop_on_calibration_frames": round(choice.agreement.dice_drop, 4),
            "quantised_blocks": [block.block for block in choice.quantised],
            "kept_blocks": [block.block for block in choice.kept],
            "sensitivity": {block.block: _agreement_json(block.agreement) for block in blocks},
        }
        return self._write_graph(quantised, IMAGE_ENCODER, name, "int8", "int8", about, draft)

    def _provenance(self) -> dict[str, JsonValue]:
        """The frames, for the record."""
        return {
            "data": self.data,
            "frames": len(self.frames),
            "frames_sha256": frames_digest(self.frames),
            "seed": self.settings.seed,
        }

    def _measure(self) -> Ranges:
        """Of every activation that some recipe quantises."""
        graph = self.graphs[IMAGE_ENCODER]
        tensors: dict[str, None] = {}
        for recipe in RECIPES.values():
            tensors |= dict.fromkeys(quantisable_nodes(graph, recipe).values())
        self.report(f"ranges of {len(tensors)} activations")
        return measure_ranges(graph, list(tensors), self._encoder_samples())

    def _encoder_samples(self) -> list[Feeds]:
        return [{"image": frame.image[None]} for frame in self.frames]

    def _write_graph(
        self,
        graph: ModelProto,
        source: str,
        name: str,
        precision: str,
        weight_storage: str,
        about: Mapping[str, JsonValue],
        draft: Path,
    ) -> GraphRecord:
        del graph.metadata_props[:]  # where the float32 graph keeps the model's tensors
        content = graph_file(graph, name)
        path = draft / f"{name}.onnx"
        write_files_atomically({path: content})
        reference = self.bundle.graph_record(source)
        return replace(
            reference,
            file=path.name,
            sha256=hashlib.sha256(content).hexdigest(),
            size_bytes=len(content),
            precision=precision,
            weight_storage=weight_storage,
            conversion={"from_sha256": reference.sha256, **about},
            extra={},
        )


def _kept_json(kept: Sequence[KeptNode]) -> list[JsonValue]:
    return [{"node": node.name, "reason": node.reason} for node in kept]


def _agreement_json(agreement: MaskAgreement) -> dict[str, JsonValue]:
    return {name: round(value, 5) for name, value in asdict(agreement).items()}
