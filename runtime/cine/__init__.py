"""Lesions in moving images: cine loops from files, and live streams."""
