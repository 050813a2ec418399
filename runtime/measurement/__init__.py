"""Sizes of lesions: what a sonographer measures with callipers, from masks."""
