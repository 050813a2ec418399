"""Segmentation of ultrasound frames from a bundle. Never imports torch.

Everything that an application needs is here; see docs/reference.md.
"""

from samus_edge.errors import (
    BackendError,
    BadArgumentError,
    BundleError,
    ImageFileError,
    MissingExtraError,
    OutputFileError,
    SamusEdgeError,
)
from samus_edge.runtime.bundle.bundle import Bundle, default_bundle_path
from samus_edge.runtime.cine.cine_source import open_cine
from samus_edge.runtime.cine.lesion_tracker import LesionTracker
from samus_edge.runtime.cine.stream import Stream, StreamResult
from samus_edge.runtime.dicom.dicom_frames import DicomFrames
from samus_edge.runtime.images.image_io import read_image
from samus_edge.runtime.images.overlay import OverlayItem, draw_overlay
from samus_edge.runtime.measurement.lesion_measurements import (
    BreastLocation,
    LesionMeasurements,
    PixelSpacing,
    measure_lesion,
)
from samus_edge.runtime.notes import Note
from samus_edge.runtime.prediction import Embedding, Prediction
from samus_edge.runtime.quality import Quality
from samus_edge.runtime.segmenter import Segmenter

__all__ = [
    "BackendError",
    "BadArgumentError",
    "BreastLocation",
    "Bundle",
    "BundleError",
    "DicomFrames",
    "Embedding",
    "ImageFileError",
    "LesionMeasurements",
    "LesionTracker",
    "MissingExtraError",
    "Note",
    "OutputFileError",
    "OverlayItem",
    "PixelSpacing",
    "Prediction",
    "Quality",
    "SamusEdgeError",
    "Segmenter",
    "Stream",
    "StreamResult",
    "default_bundle_path",
    "draw_overlay",
    "measure_lesion",
    "open_cine",
    "read_image",
]
