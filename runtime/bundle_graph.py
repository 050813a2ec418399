"""A graph of a bundle, opened on a backend."""

from samus_edge.runtime.backend import Backend, GraphSession
from samus_edge.runtime.bundle import Bundle

__all__ = ["open_bundle_graph"]


def open_bundle_graph(backend: Backend, bundle: Bundle, name: str) -> GraphSession:
    """Open a graph with its record and what it keeps in other files.

    Args:
        backend: what runs it.
        bundle: opened.
        name: of the graph in the manifest, for example "image_encoder".

    Raises:
        BundleError: if it differs from its record.
        BackendError: if the backend cannot run it.
    """
    return backend.open_graph(
        name, bundle.read_graph(name), bundle.graph_record(name), bundle.read_external_data(name)
    )
