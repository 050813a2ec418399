"""The runtime's one entry: from an image and prompts to masks, without torch."""

import ctypes
import os
import threading
import weakref
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, final, overload

import numpy as np
import numpy.typing as npt

from samus_edge.errors import BackendError, BadArgumentError
from samus_edge.runtime.agreement import mask_iou
from samus_edge.runtime.backends.backend import Backend, GraphSession, open_bundle_graph
from samus_edge.runtime.backends.backend_selection import (
    backend_order,
    check_threads,
    say_choice,
    select_backend,
)
from samus_edge.runtime.bundle.bundle import Bundle, check_precision, precision_name, select_graphs
from samus_edge.runtime.bundle.manifest import (
    IMAGE_ENCODER,
    LESION_PROPOSER,
    MASK_DECODER,
    check_graph,
    mask_input_hw,
)
from samus_edge.runtime.dicom.dicom_frames import DicomFrames, is_dicom_file
from samus_edge.runtime.images.image_io import (
    GreyFrame,
    grey_frame,
    is_picture,
    picture_frame,
    read_image,
)
from samus_edge.runtime.notes import PROPOSED, Note, grey_range, prediction_notes
from samus_edge.runtime.prediction import (
    MULTIMASK,
    SINGLE_MASK,
    Embedding,
    Logits,
    Prediction,
    Proposals,
    decode_prompts,
    masks_from_logits,
    predict_masks,
)
from samus_edge.runtime.prompts import Prompts, check_prompts
from samus_edge.runtime.quality import judge_masks, read_calibration

if TYPE_CHECKING:
    from PIL.Image import Image

    from samus_edge.runtime.backends.gpu.device import DeviceArray, DeviceTensor

# Two proposals whose masks overlap by more than this IoU are one lesion.
_SAME_LESION = 0.5
# Of the first: the bundle's head is trained to give the probability that there is a lesion.
_MIN_SCORE = 0.5
ImageLike: TypeAlias = "npt.NDArray[np.uint8] | Image | str | os.PathLike[str]"

_open_segmenters: "weakref.WeakSet[Segmenter]" = weakref.WeakSet()


@final
class Segmenter:
    """Segments images by box and point prompts. Made by `Segmenter.load`.

    One segmenter may be used from several threads at once, and gives the same masks as from one. It
    is a context manager; after `close` it refuses to work.

    Example:
        >>> from samus_edge.runtime import Segmenter, read_image
        >>> image = read_image("examples/benign_80.png")
        >>> with Segmenter.load() as segmenter:
        ...     prediction = segmenter.segment(image, boxes=[[135, 88, 446, 368]])
        >>> prediction.masks.shape
        (1, 1, 473, 561)
    """

    def __init__(self, bundle: Bundle, backend: Backend, precision: str = "auto") -> None:
        """Prepare both graphs of an opened bundle on a backend.

        Args:
            bundle: A result of `Bundle.open`.
            backend: A result of `select_backend`.
            precision: A precision of the bundle; "auto" for its reference.

        Raises:
            BundleError: if the bundle lacks a graph that the runtime needs.
            BackendError: if the bundle lacks the precision, or the backend cannot run the graphs.
        """
        self._precision = precision_name(bundle, precision)
        graphs = select_graphs(bundle, precision)
        encoder = bundle.graph_record(graphs.image_encoder)
        decoder = bundle.graph_record(graphs.mask_decoder)
        check_graph(IMAGE_ENCODER, encoder)
        check_graph(MASK_DECODER, decoder)
        self._bundle = bundle
        self._backend = backend
        self._encoder_sha256 = encoder.sha256
        self._decoder_sha256 = decoder.sha256
        self._mask_input_hw = mask_input_hw(decoder)
        self._calibration = read_calibration(bundle.manifest.quality)
        self._sessions: tuple[GraphSession, GraphSession] | None = (
            open_bundle_graph(backend, bundle, graphs.image_encoder),
            open_bundle_graph(backend, bundle, graphs.mask_decoder),
        )
        self._proposer: GraphSession | None = None
        self._opening = threading.Lock()
        self._is_of_parent = False
        _open_segmenters.add(self)
        try:
            backend.check(self, self.reference)
        except BaseException:
            self.close()
            raise

    @classmethod
    def load(
        cls,
        bundle: str | os.PathLike[str] | Bundle | None = None,
        *,
        require_signature: str | os.PathLike[str] | None = None,
        backend: str = "auto",
        precision: str = "auto",
        threads: int | None = None,
        device: str | int | None = None,
    ) -> "Segmenter":
        """Open a bundle and make it ready to segment.

        Args:
            bundle: folder of a bundle, a zip file of one, or one that is open; None for the one
                that is installed with samus-edge.
            require_signature: PEM file with the public key, or the root certificate, of who has to
                have signed the bundle; see docs/trust.md.
            backend: "onnxruntime" (CPU), "onnxruntime-cuda", "onnxruntime-tensorrt", "openvino" or
                "tensorrt"; "auto" takes the first that works of TensorRT (with engines that
                `samus-edge build` has made), ONNX Runtime on CUDA, OpenVINO (where `samus-edge
                build` has found it right and faster), ONNX Runtime on the CPU, and says in the log
                which and why.
            precision: "auto" takes the bundle's reference, which is the most accurate; "fp32",
                "fp16", "int8" (for TensorRT) or "int8-cpu" is an error where the bundle lacks it.
            threads: CPU threads that compute one graph; None for all cores, at most 8.
            device: What computes, of several: "cuda:1" or 1 for the second NVIDIA GPU, for OpenVINO
                "cpu", "gpu", "gpu.1" or "npu". "auto" takes backends that compute on it; None lets
                the backend choose.

        Raises:
            BadArgumentError: if backend, precision, threads or device is not one of those.
            BundleError: if the bundle is missing, damaged, changed, of a newer format, or not
                signed as required.
            BackendError: if the bundle lacks the precision, or the backend is not available or
                cannot run the graphs.
        """
        check_precision(precision)
        check_threads(threads)
        names = backend_order(backend, device)
        opened = Bundle.open(bundle, require_signature=require_signature)
        if backend != "auto":
            return cls(opened, select_backend(backend, threads, device=device), precision)
        # Here too, so that a precision that the bundle lacks is not taken for a backend's failure.
        select_graphs(opened, precision)
        passed_over: list[str] = []
        for name in names:
            try:
                # Building takes minutes, so it is done only for a backend that is named.
                selected = select_backend(name, threads, device=device, build_missing=False)
                segmenter = cls(opened, selected, precision)
            except BackendError as err:
                passed_over.append(f"{name}: {err}")
                continue
            say_choice(selected, passed_over)
            return segmenter
        raise BackendError(f"no backend works. {' '.join(passed_over)}")

    def reference(self, threads: int | None = None) -> "Segmenter":
        """Open the same graphs on ONNX Runtime's CPU provider, which backends are compared with."""
        return Segmenter(self._bundle, select_backend("onnxruntime", threads), self._precision)

    @property
    def bundle(self) -> Bundle:
        """The bundle that computes."""
        return self._bundle

    @property
    def backend(self) -> Backend:
        """The engine that computes."""
        return self._backend

    @property
    def precision(self) -> str:
        """The precision that computes, for example "fp32"."""
        return self._precision

    @property
    def graph_hashes(self) -> dict[str, str]:
        """SHA-256 of the two graphs that compute, by "image_encoder" and "mask_decoder"."""
        return {IMAGE_ENCODER: self._encoder_sha256, MASK_DECODER: self._decoder_sha256}

    @property
    def mask_input_hw(self) -> tuple[int, int]:
        """(h, w) of `mask_input`, logits."""
        return self._mask_input_hw

    @overload
    def segment(  # type: ignore[overload-overlap]  # a text is a sequence of texts
        self,
        image: ImageLike,
        *,
        boxes: npt.ArrayLike | None = None,
        point_coords: npt.ArrayLike | None = None,
        point_labels: npt.ArrayLike | None = None,
        mask_input: npt.ArrayLike | None = None,
        multimask_output: bool = False,
    ) -> Prediction: ...

    @overload
    def segment(
        self,
        image: Sequence[ImageLike],
        *,
        boxes: Sequence[npt.ArrayLike | None] | None = None,
        point_coords: Sequence[npt.ArrayLike | None] | None = None,
        point_labels: Sequence[npt.ArrayLike | None] | None = None,
        mask_input: Sequence[npt.ArrayLike | None] | None = None,
        multimask_output: bool = False,
    ) -> list[Prediction]: ...

    def segment(
        self,
        image: Any,
        *,
        boxes: Any = None,
        point_coords: Any = None,
        point_labels: Any = None,
        mask_input: Any = None,
        multimask_output: bool = False,
    ) -> Prediction | list[Prediction]:
        """Encode an image and predict its masks; `encode` once and `predict` often to prompt again.

        Args:
            image: What `encode` takes; or a list or tuple of such images. Then each of the prompts
                below is left out or a list as long, in which an image without one has None.
            boxes: as in `predict`, like all that follow.
            point_coords: see `predict`.
            point_labels: see `predict`.
            mask_input: see `predict`.
            multimask_output: see `predict`.

        Returns:
            N x M masks of the image's size; for several images a list, in their order.

        Raises:
            TypeError, BadArgumentError, ImageFileError, BackendError: as `encode` and `predict`.

        Example:
            >>> with Segmenter.load() as segmenter:
            ...     path, boxes = "examples/benign_80.png", [[135, 88, 446, 368]]
            ...     prediction = segmenter.segment(path, boxes=boxes)
            >>> prediction.masks.shape
            (1, 1, 473, 561)
        """
        if isinstance(image, (list, tuple)):
            names = ("boxes", "point_coords", "point_labels", "mask_input")
            given = dict(zip(names, (boxes, point_coords, point_labels, mask_input), strict=True))
            lists = {name: list(each) for name, each in given.items() if each is not None}
            for name, each in lists.items():
                if len(each) != len(image):
                    raise BadArgumentError(
                        f"{name} must have one entry for each of {len(image)} images, None where "
                        f"an image has none, got {len(each)}."
                    )
            return [
                self.segment(
                    one,
                    **{name: each[index] for name, each in lists.items()},
                    multimask_output=multimask_output,
                )
                for index, one in enumerate(image)
            ]
        frame = self._frame(image)
        hw = _original_hw(frame)
        prompts = self._check_prompts(hw, boxes, point_coords, point_labels, mask_input)
        return self._predict(self._encode(frame), prompts, multimask_output)

    def encode(self, image: "ImageLike | DeviceArray") -> Embedding:
        """Run the image encoder, which is most of the work, once for an image.

        Args:
            image: (H, W) grey or (H, W, 3) RGB, uint8; the path of an image or a DICOM file, whose
                first frame is taken, as `samus-edge infer` reads it; a PIL image, whose pixels are
                those of a file of it; or, for a backend on a GPU, (H, W) grey in its memory, as
                any object with `__cuda_array_interface__` or `__dlpack__`.

        Raises:
            TypeError: if the image is none of these.
            ImageFileError: if a file cannot be read.
            MissingExtraError: for a DICOM file without pydicom.
            BadArgumentError: if its shape is another, or not the one that the bundle was frozen to.
            RuntimeError: if the segmenter is closed.
            BackendError: if the backend fails.
        """
        return self._encode(self._frame(image))

    def predict(
        self,
        embedding: Embedding,
        *,
        boxes: npt.ArrayLike | None = None,
        point_coords: npt.ArrayLike | None = None,
        point_labels: npt.ArrayLike | None = None,
        mask_input: npt.ArrayLike | None = None,
        multimask_output: bool = False,
    ) -> Prediction:
        """Predict masks for N prompts on an encoded image.

        Coordinates are pixels of the original image, (x, y), with pixel centres at integers. A
        prompt is a box, points, or both; each gives its masks independently of the other prompts.
        Points are clicks, in their order: each refines the mask before it, which obeys it; see
        docs/prompts.md for the rule, which is the same wherever masks are asked for.

        Args:
            embedding: A result of this segmenter's `encode`.
            boxes: (N, 4), XYXY, x1 < x2 and y1 < y2; what sticks out of the image is cut off.
            point_coords: (N, P, 2); or (P, 2), one prompt with P points. With boxes, row i goes
                with box i.
            point_labels: (N, P) or (P,): 1 foreground, 0 background, -1 padding; None for all 1.
            mask_input: (N, 1, h, w), logits of an earlier prediction, to be refined.
            multimask_output: False for one mask per prompt; True for three alternatives, the better
                choice for a single point that may mean several things.

        Returns:
            N x M masks of the image's size; M is 1 or 3.

        Raises:
            TypeError: if a prompt is not numbers, or the embedding not an Embedding.
            BadArgumentError: if there is no prompt, one is malformed, outside the image or without
                a box and a foreground point, or the embedding is of another bundle.
            RuntimeError: if the segmenter is closed.
            BackendError: if the backend fails, or gives values that are not finite.
        """
        self._check_embedding(embedding)
        hw = embedding.original_hw
        prompts = self._check_prompts(hw, boxes, point_coords, point_labels, mask_input)
        return self._predict(embedding, prompts, multimask_output)

    @property
    def can_propose(self) -> bool:
        """Whether the bundle has a lesion proposer."""
        return LESION_PROPOSER in self._bundle.manifest.graphs

    def propose(
        self,
        image: "npt.NDArray[np.uint8] | DeviceArray | Embedding",
        *,
        max_lesions: int = 1,
        min_score: float = _MIN_SCORE,
    ) -> Prediction:
        """Suggest lesions without a prompt, best first; a person has to look at each of them.

        Args:
            image: as in `encode`, or a result of `encode`.
            max_lesions: at most so many lesions, 1 to 3.
            min_score: 0 to 1; what the model is less sure of is left out.

        Returns:
            One mask for each of the N lesions, N from 0 to `max_lesions`, with `proposals`. The
            probability in `quality` is times the proposal's score.

        Raises:
            TypeError, RuntimeError: as `encode` and `predict`.
            BadArgumentError: if `max_lesions` or `min_score` is out of its range.
            BackendError: if the bundle has no lesion proposer, or the backend fails.
        """
        if not 1 <= max_lesions <= 3:
            raise BadArgumentError(f"max_lesions must be 1 to 3, got {max_lesions}.")
        if not 0.0 <= min_score <= 1.0:
            raise BadArgumentError(f"min_score must be from 0 to 1, got {min_score}.")
        if isinstance(image, Embedding):
            self._check_embedding(image)
            embedding = image
        else:
            embedding = self.encode(image)
        outputs = self.proposed(embedding)
        scores, lesion_map = outputs["scores"][0], outputs["lesion_map"][0]
        height, width = embedding.original_hw
        scale = np.array([width, height], np.float32) / self._bundle.manifest.prompts.size
        boxes, points = (
            (outputs[name].reshape(-1, 2) + np.float32(0.5)) * scale - np.float32(0.5)
            for name in ("boxes", "points")
        )
        points = points.clip(0, [width - 1, height - 1]).astype(np.float32)[:, None]
        prediction = self.predict(embedding, point_coords=points)
        agreements = [_agreement(logits[0], lesion_map) for logits in prediction.low_res_logits]
        order = np.argsort(-scores * np.array(agreements), kind="stable")
        masks = prediction.masks[:, 0]
        kept: list[int] = []
        for number in order[scores[order] >= min_score].tolist():
            if len(kept) < max_lesions and all(
                mask_iou(masks[number], masks[other]) <= _SAME_LESION for other in kept
            ):
                kept.append(number)
        found = replace(
            prediction,
            masks=prediction.masks[kept],
            low_res_logits=prediction.low_res_logits[kept],
            iou_predictions=prediction.iou_predictions[kept],
            quality=prediction.quality
            and tuple(prediction.quality[each].doubted(float(scores[each])) for each in kept),
            proposals=Proposals(
                boxes=boxes.reshape(-1, 4)[kept],
                points=points[kept, 0],
                scores=scores[kept],
                presence=float(scores[0]),
            ),
        )
        return replace(found, notes=_proposal_notes(found, embedding))

    def proposed(self, embedding: Embedding) -> dict[str, Logits]:
        """What the lesion proposer alone gives, to compare graphs by.

        Args:
            embedding: A result of this segmenter's `encode`.

        Returns:
            boxes (1, K, 4), scores (1, K), points (1, K, 2) and lesion_map (1, h, w), float32; in
            pixels of the model's input, best first.

        Raises:
            RuntimeError: if the segmenter is closed.
            BackendError: if the bundle has no lesion proposer, or the backend fails.
        """
        outputs = self._open_proposer().run({"image_embeddings": embedding.tensor})
        if not all(np.isfinite(values).all() for values in outputs.values()):
            raise BackendError(
                f"{self._backend.name} {self._backend.version} proposed NaN or infinite values. "
                "Try another backend or precision."
            )
        return outputs

    def decode(
        self,
        embedding: Embedding,
        *,
        boxes: npt.ArrayLike | None = None,
        point_coords: npt.ArrayLike | None = None,
        point_labels: npt.ArrayLike | None = None,
        mask_input: npt.ArrayLike | None = None,
        multimask_output: bool = False,
    ) -> Prediction:
        """What the mask decoder alone gives, with all points at once, to compare graphs by.

        Arguments, result and errors are those of `predict`.
        """
        self._check_embedding(embedding)
        hw = embedding.original_hw
        prompts = self._check_prompts(hw, boxes, point_coords, point_labels, mask_input)
        kept = MULTIMASK if multimask_output else SINGLE_MASK
        return self._prediction(embedding, prompts, *self._decode(embedding, prompts, kept))

    def close(self) -> None:
        """Give the graphs' memory back; calls under way end normally. Closing twice is fine."""
        sessions, self._sessions = self._sessions, None
        proposer, self._proposer = self._proposer, None
        for session in (*(sessions or ()), *((proposer,) if proposer else ())):
            session.close()

    def __enter__(self) -> "Segmenter":
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a Segmenter cannot be pickled or copied: it holds an engine's graphs and threads. "
            "Call Segmenter.load() in each process; the threads of a process may share one."
        )

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _check_embedding(self, embedding: Embedding) -> None:
        if not isinstance(embedding, Embedding):
            raise TypeError(
                f"embedding must be an Embedding, got {type(embedding).__name__}. "
                "Make one with encode(image), or call segment(image, ...)."
            )
        if embedding.encoder_sha256 != self._encoder_sha256:
            raise BadArgumentError(
                f"the embedding was made by the image encoder {embedding.encoder_sha256[:12]}, and "
                f"this segmenter has {self._encoder_sha256[:12]}. Encode the image with this "
                "segmenter."
            )

    def _check_prompts(
        self,
        original_hw: tuple[int, int],
        boxes: npt.ArrayLike | None,
        point_coords: npt.ArrayLike | None,
        point_labels: npt.ArrayLike | None,
        mask_input: npt.ArrayLike | None,
    ) -> Prompts:
        return check_prompts(
            original_hw,
            boxes=boxes,
            point_coords=point_coords,
            point_labels=point_labels,
            mask_input=mask_input,
            mask_input_hw=self._mask_input_hw,
        )

    def _frame(self, image: "ImageLike | DeviceArray") -> "GreyFrame | DeviceTensor":
        """The grey frame (H, W) that the encoder takes, where the image is."""
        if isinstance(image, (str, os.PathLike)):
            path = Path(image)
            is_dicom = path.is_file() and is_dicom_file(path)
            return DicomFrames.open(path).read(0) if is_dicom else read_image(path)
        if is_picture(image):
            return picture_frame(image)
        device = self._backend.gpu
        if isinstance(image, np.ndarray) or device is None:
            return grey_frame(image)  # which refuses what is no array of the host
        from samus_edge.runtime.backends.gpu.device_frame import device_frame

        return device_frame(image, device)

    def _encode(self, frame: "GreyFrame | DeviceTensor") -> Embedding:
        encoder, _ = self._open_sessions()
        outputs = encoder.run_on_device({"image": frame[None]})
        return Embedding(
            tensor=outputs["image_embeddings"],
            original_hw=_original_hw(frame),
            encoder_sha256=self._encoder_sha256,
            grey=grey_range(frame) if isinstance(frame, np.ndarray) else None,
        )

    def _predict(
        self, embedding: Embedding, prompts: Prompts, multimask_output: bool
    ) -> Prediction:
        logits, ious = predict_masks(
            partial(self._decode, embedding),
            prompts,
            self._bundle.manifest.mask_threshold,
            multimask_output,
        )
        return self._prediction(embedding, prompts, logits, ious)

    def _decode(self, embedding: Embedding, prompts: Prompts, kept: slice) -> tuple[Logits, Logits]:
        """The logits (N, M, h, w) and predicted IoU (N, M) of N prompts, finite."""
        _, decoder = self._open_sessions()
        model_size = self._bundle.manifest.prompts.size
        logits, ious = decode_prompts(
            decoder, embedding.tensor, prompts, model_size, self._mask_input_hw, kept
        )
        if not (np.isfinite(logits).all() and np.isfinite(ious).all()):
            raise BackendError(
                f"{self._backend.name} {self._backend.version} gave NaN or infinite logits. "
                "Try another backend or precision."
            )
        return logits, ious

    def _prediction(
        self, embedding: Embedding, prompts: Prompts, logits: Logits, ious: Logits
    ) -> Prediction:
        threshold = self._bundle.manifest.mask_threshold
        masks = masks_from_logits(logits, embedding.original_hw, threshold)
        quality = None
        if self._calibration is not None and masks.shape[1] == 1:
            quality = judge_masks(self._calibration, logits, ious, prompts, threshold)
        return Prediction(
            masks=masks,
            low_res_logits=logits,
            iou_predictions=ious,
            original_hw=embedding.original_hw,
            notes=prediction_notes(embedding.grey, prompts, masks, quality),
            quality=quality,
        )

    def _open_sessions(self) -> tuple[GraphSession, GraphSession]:
        sessions = self._sessions
        if sessions is None and self._is_of_parent:
            raise BackendError(
                "this Segmenter was loaded before the process forked, and its threads stayed in "
                "the parent. Call Segmenter.load() after the fork: in gunicorn without --preload "
                "or in post_fork, for a DataLoader in worker_init_fn; or start processes with the "
                "method 'spawn'."
            )
        if sessions is None:
            raise RuntimeError("this Segmenter is closed. Load another with Segmenter.load().")
        return sessions

    def _open_proposer(self) -> GraphSession:
        """The lesion proposer, opened at its first use: a segmenter that is prompted needs none."""
        self._open_sessions()
        with self._opening:
            if self._proposer is None:
                if not self.can_propose:
                    raise BackendError(
                        f"the bundle {self._bundle.manifest.name} has no lesion proposer. Give a "
                        "box or a point, or a bundle of a model that was trained with "
                        "loss.proposals."
                    )
                check_graph(LESION_PROPOSER, self._bundle.graph_record(LESION_PROPOSER))
                # OpenVINO runs what was compared; the head is small, and its input in host memory.
                backend = self._backend
                if backend.name == "openvino":
                    backend = select_backend("onnxruntime", backend.threads)
                self._proposer = open_bundle_graph(backend, self._bundle, LESION_PROPOSER)
            return self._proposer

    def _leave_to_parent(self) -> None:
        """Let go of the graphs in a forked child, without ending them.

        An engine that ends waits for its threads, and a child has none of them: it would wait for
        ever, at the latest when the interpreter ends.
        """
        if self._sessions is not None:
            kept = (self._sessions, self._proposer, self._backend)
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(kept))
            self._sessions, self._proposer, self._is_of_parent = None, None, True


def _original_hw(frame: "GreyFrame | DeviceTensor") -> tuple[int, int]:
    height, width = frame.shape
    return height, width


def _proposal_notes(found: Prediction, embedding: Embedding) -> tuple[Note, ...]:
    """What a user should know about proposals, before what is said of any mask."""
    assert found.proposals is not None
    if len(found.masks) == 0:
        text = (
            "The model found nothing to suggest (probability of a lesion "
            f"{found.proposals.presence:.2f}). That rules nothing out: give a box or a point where "
            "you see something."
        )
        return (Note("no_proposal", "info", text),)
    prompts = check_prompts(found.original_hw, point_coords=found.proposals.points[:, None])
    judged = prediction_notes(embedding.grey, prompts, found.masks, found.quality)
    return (PROPOSED, *judged)


def _agreement(logits: Logits, lesion_map: Logits) -> float:
    """Dice of a mask's logits (h, w) with the proposer's map, both as probabilities."""
    import cv2

    size = (lesion_map.shape[1], lesion_map.shape[0])
    mask = cv2.resize((logits > 0).astype(np.float32), size, interpolation=cv2.INTER_AREA)
    total = float(mask.sum() + lesion_map.sum())
    return 2 * float((mask * lesion_map).sum()) / total if total else 0.0


def _leave_all_to_parent() -> None:
    for segmenter in list(_open_segmenters):
        segmenter._leave_to_parent()


if hasattr(os, "register_at_fork"):  # not on Windows
    os.register_at_fork(after_in_child=_leave_all_to_parent)
