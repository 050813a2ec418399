"""Ultrasound studies as DICOM: frames and spacing in; segmentations and measurements out. Needs
the extra [dicom]."""
