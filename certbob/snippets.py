"""Configuration of the services that people's certificates open, from `partials/snippets/`."""

import jinja2

from certbob.paths import resource_root

SERVICES = ("apache", "caddy", "envoy", "freeradius", "haproxy", "nginx", "openvpn")


def snippet(service: str, *, site: str, has_list: bool) -> str:
    """Its configuration and what keeps it fresh, with comments for whoever pastes it.

    `site`: where CertBob is. `has_list`: whether it has a list of revoked certificates.
    """
    environment = jinja2.Environment(  # noqa: S701 plain text
        loader=jinja2.FileSystemLoader(resource_root() / "partials"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(f"snippets/{service}.txt").render(
        service=service, site=site, has_list=has_list
    )
