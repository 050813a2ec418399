"""What a user should know about a result, in words for people and codes for machines."""

from dataclasses import asdict, dataclass
from typing import Literal, TypeAlias

__all__ = ["Note", "NoteLevel"]


NoteLevel: TypeAlias = Literal["info", "warning"]


@dataclass(frozen=True)
class Note:
    """Something about a file, a prompt or a result that a user should know.

    Codes are stable and lower case; a released code keeps its meaning. Texts may change.

    | code | level | what |
    | --- | --- | --- |
    | `blank_frame`, `blank_box` | warning | no contrast in the frame, or in the box |
    | `normalised_coordinates` | warning | all coordinates are at most 1, but pixels are expected |
    | `mask_outside_box` | warning | most of the mask lies outside its box |
    | `empty_mask` | warning | no pixel is in the mask |
    | `low_quality` | warning | the mask is probably not good |
    | `spacing_unknown` | warning | sizes are in pixels; the text says why; info without DICOM |
    | `spacing_implausible` | warning | the size of a pixel is outside 0.005 to 2 mm |
    | `spacing_contradiction` | warning | tags give different sizes of a pixel; which was taken |
    | `cine_truncated` | warning | the file has fewer whole frames than it states |
    | `tag_ignored` | warning | a DICOM element is missing, wrong or contradicts others |
    | `window_ignored` | info | a grey value window without an extent was passed over |
    | `header_missing` | info | a DICOM file without a preamble or file meta information |
    | `source_repaired` | warning | a non-conformant element was left out of a DICOM result |

    Attributes:
        code: for programs, such as `spacing_unknown`.
        level: "warning" if the result may be wrong or not what was meant, else "info".
        text: one sentence or two for people. It never quotes text from a DICOM file.
    """

    code: str
    level: NoteLevel
    text: str

    def to_json(self) -> dict[str, str]:
        """As a JSON object."""
        return asdict(self)
