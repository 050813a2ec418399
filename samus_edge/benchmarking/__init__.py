"""How fast a bundle is here, beside its rivals and the limits of the machine."""
