"""`samus-edge serve`: the service and its page."""

from typing import Annotated

import typer

from samus_edge.cli.options import (
    BackendName,
    BundlePath,
    DeviceName,
    PrecisionName,
    RequireSignature,
    Threads,
    silence_opencv,
)


def command(
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="Address to listen on; another needs a token.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(metavar="N", min=0, max=65535, help="Port to listen on.")
    ] = 8000,
    token: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            envvar="SAMUS_EDGE_TOKEN",
            show_envvar=True,
            help="What requests must bear; better in the environment than on the command line.",
        ),
    ] = None,
    bundle: BundlePath = None,
    require_signature: RequireSignature = None,
    backend: BackendName = "auto",
    device: DeviceName = None,
    precision: PrecisionName = "auto",
    threads: Threads = None,
    max_request_mb: Annotated[
        int, typer.Option(metavar="N", min=1, max=1024, help="Largest file that is taken.")
    ] = 64,
    max_sessions: Annotated[
        int, typer.Option(metavar="N", min=1, help="Images kept at the same time.")
    ] = 32,
    session_minutes: Annotated[
        float, typer.Option(metavar="NUMBER", min=0.1, help="For which an image is kept unused.")
    ] = 30.0,
    rate: Annotated[
        float,
        typer.Option(
            metavar="NUMBER", min=0, help="Requests per second of a client; 0 for no limit."
        ),
    ] = 50.0,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Host name under which it is reached. Repeat for more."),
    ] = None,
    proxy: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDRESS",
            help="Address of a proxy in front, whose X-Forwarded-For counts. Repeat for more.",
        ),
    ] = None,
    label_studio: Annotated[
        list[str] | None,
        typer.Option(
            metavar="URL",
            help="Be a backend of this Label Studio, at /v1/label-studio, and fetch images from "
            "there. Repeat for other servers that its images are on.",
        ),
    ] = None,
    label_studio_key: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            envvar="LABEL_STUDIO_API_KEY",
            show_envvar=True,
            help="Key to fetch its images with; better in the environment.",
        ),
    ] = None,
) -> None:
    """Serve a page to point and click, a REST interface and live frames.

    The page is at http://127.0.0.1:8000/, the description of the interface at /openapi.json.
    Nothing is sent elsewhere, and images are kept in memory alone. Ctrl-C finishes what is under
    way.
    """
    import uvicorn

    from samus_edge.errors import SamusEdgeError
    from samus_edge.runtime import Segmenter
    from samus_edge.server.app import create_app
    from samus_edge.server.guard import patient_protocol
    from samus_edge.server.observability import log_settings
    from samus_edge.server.settings import ServerSettings

    settings = ServerSettings(
        host=host,
        token=token,
        max_request_bytes=max_request_mb * 1024 * 1024,
        max_sessions=max_sessions,
        session_seconds=60 * session_minutes,
        requests_per_second=rate,
        burst=max(1, round(2 * rate)),
        allowed_hosts=tuple(allow_host or ()),
        label_studio=tuple(label_studio or ()),
        label_studio_key=label_studio_key,
    )
    silence_opencv()
    with Segmenter.load(
        bundle,
        require_signature=require_signature,
        backend=backend,
        precision=precision,
        threads=threads,
        device=device,
    ) as segmenter:
        shown = f"[{host}]" if ":" in host else host
        app = create_app(settings, segmenter)
        app.state.service.decoders.start()
        typer.echo(f"http://{shown}:{port}/  Research software, not a medical device.", err=True)
        try:
            uvicorn.run(
                app,
                host=host,
                port=port,
                http=patient_protocol(settings.header_seconds),
                proxy_headers=bool(proxy),
                forwarded_allow_ips=list(proxy or ()),
                log_config=log_settings(),
                access_log=False,
                timeout_graceful_shutdown=10,
                ws_max_size=settings.max_request_bytes,
                ws_max_queue=1,  # messages of that size, of each connection
                server_header=False,
            )
        except SystemExit as err:
            raise SamusEdgeError(
                f"the service cannot start on {host}, port {port}; its log says why. Another "
                "program may use the port: choose one with --port."
            ) from err
