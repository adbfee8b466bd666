"""CertBob's entry point: `main` for people, `create_app` for any ASGI server."""

import multiprocessing

from certbob.web import Application


def create_app() -> Application:
    """The application as configured; it wires its services when the server starts it."""
    from certbob.server import asgi_app

    return asgi_app()


def main() -> None:
    multiprocessing.freeze_support()  # a signer process of the executable starts here
    from certbob.cli import main as command_line

    command_line()


if __name__ == "__main__":
    main()
