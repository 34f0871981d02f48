"""A server in this process, without Ray: for one machine, and for trying it out."""

from __future__ import annotations

import uvicorn

from ss4rec.serve.app import make_app
from ss4rec.serve.settings import ServeSettings
from ss4rec.serve.sources import open_service

SHUTDOWN_S = 10


def serve_alone(settings: ServeSettings, host: str, port: int) -> None:
    """Serve until the process is asked to end; requests that came before that are answered.

    Raises:
        SS4RecError: if the model or the store cannot be had.
    """
    service, follower = open_service(settings)
    try:
        config = uvicorn.Config(
            make_app(service, settings.limits()),
            host=host,
            port=port,
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=SHUTDOWN_S,
        )
        # Not `uvicorn.run`, which keeps the interruption to itself.
        uvicorn.Server(config).run()
    finally:
        follower.close()
        service.close()
