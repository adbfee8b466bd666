"""The services that `certbob ca snippet` writes for: real programs on loopback, set up with what it prints.

In that text only paths, ports and hosts are changed; around it stands what a package of the service brings.
"""

import hashlib
import os
import re
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.support.nginx import write_server_certificate
from tests.support.peers import path_of

PATIENCE = 15  # seconds, far beyond what is normal
SECRET = "testing123"

Command = list[str | Path]


@dataclass(frozen=True, slots=True)
class File:
    """What somebody has taken away: a PKCS #12 file and its passphrase."""

    path: Path
    passphrase: str

    def as_pem(self) -> Path:
        """Key and certificates, unprotected."""
        target = self.path.with_suffix(".pem")
        command: Command = [path_of("openssl"), "pkcs12", "-in", self.path, "-nodes", "-out", target]
        subprocess.run([*command, "-passin", f"pass:{self.passphrase}"], check=True)
        return target


def parts(text: str) -> dict[str, str]:
    """The files in a snippet, by their paths."""
    found = re.split(r"^# ==> (\S+) <==\n", text, flags=re.MULTILINE)
    return dict(zip(found[1::2], found[2::2], strict=True))


@dataclass(slots=True)
class Machine:
    """`folder` stands for /, `port` for the service's own. `behind`: the port of what it protects."""

    folder: Path
    port: int
    behind: int
    systemctl_status: int = 0

    @classmethod
    def on_free_ports(cls, folder: Path, *, behind: int) -> "Machine":
        with socket.create_server(("127.0.0.1", 0)) as listener:
            return cls(folder, listener.getsockname()[1], behind)

    @property
    def log(self) -> Path:
        return self.folder / "log"

    def path(self, path: str) -> Path:
        return self.folder / path.lstrip("/")

    def install(self, text: str) -> None:
        for path, content in parts(text).items():
            content = re.sub(r"(?<![\w.])/(etc|usr/local)/", rf"{self.folder}/\1/", content)
            content = re.sub(r"\b(443|1194)\b", str(self.port), content)
            self.write(path, re.sub(r"\b8080\b", str(self.behind), content))

    def write(self, path: str, content: str) -> Path:
        target = self.path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(content)
        return target

    def change(self, path: str, old: str, new: str) -> None:
        content = self.path(path).read_text()
        assert old in content, content
        self.write(path, content.replace(old, new))

    def trust(self, text: str, root: bytes) -> None:
        """The root, where the steps in the text want it."""
        (folder,) = re.findall(r"mkdir -p (\S+)", text)
        self.path(folder).mkdir(parents=True, exist_ok=True)
        self.path(f"{folder}/root.pem").write_bytes(root)

    def own_certificate(self, path: str) -> tuple[Path, Path]:
        """Of the service itself: certificate and key, as PATH.pem and PATH.key."""
        certificate, key = self.path(f"{path}.pem"), self.path(f"{path}.key")
        certificate.parent.mkdir(parents=True, exist_ok=True)
        write_server_certificate(certificate, key)
        return certificate, key

    def refresh(self, service: str) -> "subprocess.CompletedProcess[str]":
        """Run the script as its unit does; `systemctl` only notes what it is told."""
        systemctl = self.write(
            "tools/systemctl", f'#!/bin/sh\necho "$*" >>{self.folder}/told\nexit {self.systemctl_status}\n'
        )
        systemctl.chmod(0o755)
        return subprocess.run(
            ["sh", self.path(f"/usr/local/sbin/certbob-crl-{service}")],
            env={"PATH": f"{systemctl.parent}:{os.environ['PATH']}"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def told_systemctl(self) -> list[str]:
        """Since the last time."""
        told = self.folder / "told"
        lines = told.read_text().splitlines() if told.exists() else []
        told.unlink(missing_ok=True)
        return lines


@dataclass(frozen=True, slots=True)
class Running:
    machine: Machine
    process: "subprocess.Popen[bytes]"

    def told(self) -> str:
        return self.machine.log.read_text()

    def until(self, condition: Callable[[], bool]) -> None:
        give_up = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < give_up, self.told()[-4000:]
            time.sleep(0.02)


@dataclass(frozen=True, slots=True)
class WebServer(Running):
    """`header`: tells who is there. `reloads_on`: the signal that `systemctl reload` sends."""

    certificate: Path
    header: str
    reloads_on: signal.Signals | None

    def reload(self) -> None:
        if self.reloads_on is not None:
            self.process.send_signal(self.reloads_on)

    def sees(self, file: File | None) -> str | None:
        """What the service behind is told, whatever the client says; None when it is not let in."""
        command: Command = [path_of("curl"), "-4sf", "--max-time", "10", "--cacert", self.certificate]
        command += ["-H", f"{self.header}: CN=root"]
        if file is not None:
            command += ["--cert-type", "P12", "--cert", f"{file.path}:{file.passphrase}"]
        url = f"https://localhost:{self.machine.port}/{self.header}"
        told = subprocess.run([*command, url], capture_output=True, timeout=20, check=False)
        return re.sub("^Hash=[0-9a-f]*;", "", told.stdout.decode()) if told.returncode == 0 else None

    def context(self, file: File) -> ssl.SSLContext:
        """Of a client that keeps sessions; with TLS 1.2 they come with the handshake."""
        context = ssl.create_default_context(cafile=self.certificate)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(file.as_pem())
        return context

    def connect(self, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> ssl.SSLSocket:
        """Raises OSError when the server refuses already here."""
        connection = socket.create_connection(("127.0.0.1", self.machine.port), timeout=10)
        try:
            return context.wrap_socket(connection, server_hostname="localhost", session=session)
        except BaseException:
            connection.close()
            raise


@contextmanager
def running(command: Command, machine: Machine, log: str = "log") -> Iterator[Running]:
    with (machine.folder / log).open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
        )
    try:
        yield Running(machine, process)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def check(*command: str | Path) -> None:
    """The program's own check of its configuration."""
    told = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert told.returncode == 0, told.stdout + told.stderr


@contextmanager
def _web_server(
    machine: Machine,
    command: Command,
    certificate: Path,
    *,
    header: str = "X-Client-Name",
    reloads_on: signal.Signals | None = None,
) -> Iterator[WebServer]:
    with running(command, machine) as found:
        server = WebServer(machine, found.process, certificate, header, reloads_on)
        server.until(lambda: _listens(machine.port))
        yield server


def _listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@contextmanager
def nginx(machine: Machine) -> Iterator[WebServer]:
    folder = machine.folder
    certificate, _ = machine.own_certificate("/etc/nginx/service")
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    temporary = "".join(f"{kind}_temp_path {folder}/{kind};\n" for kind in kinds)
    main = machine.write(
        "/etc/nginx/nginx.conf",
        f"daemon off;\npid {folder}/pid;\nevents {{}}\n"
        f"http {{\naccess_log off;\n{temporary}include {folder}/etc/nginx/conf.d/*.conf;\n}}\n",
    )
    command: Command = [path_of("nginx"), "-p", folder, "-c", main, "-e", "stderr"]
    if os.geteuid() == 0:
        command += ["-g", "user root;"]  # its worker reads this private folder
    check(*command, "-t")
    with _web_server(machine, command, certificate, reloads_on=signal.SIGHUP) as server:
        yield server


@contextmanager
def apache(machine: Machine) -> Iterator[WebServer]:
    folder = machine.folder
    certificate, _ = machine.own_certificate("/etc/apache2/service")
    modules = ("mpm_event", "authz_core", "ssl", "headers", "proxy", "proxy_http")
    main = machine.write(
        "/etc/apache2/apache2.conf",
        f"ServerName localhost\nDefaultRuntimeDir {folder}\nPidFile {folder}/pid\nListen {machine.port}\n"
        + "".join(f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n" for name in modules)
        + ("User daemon\nGroup daemon\n" if os.geteuid() == 0 else "")
        + f"ErrorLog /dev/stderr\nInclude {folder}/etc/apache2/sites-available/*.conf\n",
    )
    command: Command = [path_of("apache2"), "-d", folder, "-f", main]
    check(*command, "-t")
    command.append("-DFOREGROUND")
    with _web_server(machine, command, certificate, reloads_on=signal.SIGUSR1) as server:
        yield server


@contextmanager
def haproxy(machine: Machine) -> Iterator[WebServer]:
    certificate, key = machine.own_certificate("/etc/haproxy/own")
    machine.write("/etc/haproxy/service.pem", certificate.read_text() + key.read_text())
    name = "/etc/haproxy/haproxy.cfg"
    timeouts = "defaults\n    timeout connect 5s\n    timeout client 5s\n    timeout server 5s\n\n"
    main = machine.write(name, f"global\n    maxconn 100\n\n{timeouts}{machine.path(name).read_text()}")
    command: Command = [path_of("haproxy"), "-f", main]
    check(*command, "-c")
    command += ["-W", "-db"]
    with _web_server(machine, command, certificate, reloads_on=signal.SIGUSR2) as server:
        yield server


@contextmanager
def envoy(machine: Machine) -> Iterator[WebServer]:
    certificate, _ = machine.own_certificate("/etc/envoy/service")
    command: Command = [path_of("envoy"), "-c", machine.path("/etc/envoy/envoy.yaml"), "--concurrency", "1"]
    command.append("--use-dynamic-base-id")  # beside another one
    check(*command, "--mode", "validate")
    with _web_server(machine, command, certificate, header="X-Forwarded-Client-Cert") as server:
        yield server


@contextmanager
def caddy(machine: Machine) -> Iterator[WebServer]:
    certificate, key = machine.own_certificate("/etc/caddy/service")
    name = "/etc/caddy/Caddyfile"
    machine.change(name, "service.example.org {", f"localhost:{machine.port} {{")
    machine.change(name, "tls {", f"tls {certificate} {key} {{")  # it would ask the world for one
    options = "{\n    admin off\n    auto_https disable_redirects\n}\n"
    main = machine.write(name, options + machine.path(name).read_text())
    program: Command = ["env", f"HOME={machine.folder}", path_of("caddy")]
    arguments: Command = ["--config", main, "--adapter", "caddyfile"]
    check(*program, "validate", *arguments)
    command = [*program, "run", *arguments]
    with _web_server(machine, command, certificate, header="X-Client-Subject") as server:
        yield server


WEB_SERVERS: dict[str, Callable[[Machine], AbstractContextManager[WebServer]]] = {
    "apache": apache,
    "caddy": caddy,
    "envoy": envoy,
    "haproxy": haproxy,
    "nginx": nginx,
}


@contextmanager
def openvpn(machine: Machine) -> Iterator[Running]:
    machine.own_certificate("/etc/openvpn/server")
    name = "/etc/openvpn/server/certbob.conf"
    # A tunnel wants rights that tests may not have: here it ends nowhere, and is for one client at a time.
    machine.change(name, "dev tun\ntopology subnet\nserver 10.8.0.0 255.255.255.0 # yours\n", "dev null\n")
    machine.change(name, "user nobody\ngroup nogroup\n", "tls-server\n")
    command: Command = [path_of("openvpn"), "--config", machine.path(name), "--local", "127.0.0.1"]
    with running(command, machine) as server:
        server.until(lambda: "UDPv4 link local (bound)" in server.told())
        yield server


@contextmanager
def openvpn_client(machine: Machine, file: File) -> Iterator[Running]:
    passphrase = machine.write("passphrase", file.passphrase)
    command: Command = [path_of("openvpn"), "--dev", "null", "--proto", "udp", "--nobind", "--tls-client"]
    command += ["--remote", "127.0.0.1", str(machine.port), "--ca", machine.path("/etc/openvpn/server.pem")]
    command += ["--pkcs12", file.path, "--askpass", passphrase]
    with running(command, machine, log="client.log") as client:
        yield client


@contextmanager
def freeradius(machine: Machine) -> Iterator[Running]:
    machine.own_certificate("/etc/freeradius/3.0/certs/server")
    main = machine.write(
        "/etc/freeradius/3.0/radiusd.conf",
        f"""
logdir = {machine.folder}
run_dir = {machine.folder}
libdir = /usr/lib/freeradius
client localhost {{
    ipaddr = 127.0.0.1
    secret = {SECRET}
}}
modules {{
    $INCLUDE mods-available/eap
}}
policy {{
    $INCLUDE policy.d/
}}
server default {{
    listen {{
        type = auth
        ipaddr = 127.0.0.1
        port = {machine.port}
    }}
    authorize {{
        eap
    }}
    authenticate {{
        eap
    }}
    post-auth {{
        certbob_name
    }}
}}
""",
    )
    command: Command = [path_of("freeradius"), "-d", main.parent]
    check(*command, "-XC")
    with running([*command, "-f", "-l", "stdout"], machine) as server:
        server.until(lambda: "Ready to process requests" in server.told())
        yield server


def wifi_user_name(machine: Machine, file: File) -> str | None:
    """What an access point is told of who comes with this file; None when it is not to let them in."""
    authority = machine.path("/etc/freeradius/3.0/certs/server.pem")
    network = machine.write(
        "network.conf",
        f"""
network={{
    key_mgmt=WPA-EAP
    eap=TLS
    identity="anonymous"
    ca_cert="{authority}"
    private_key="{file.path}"
    private_key_passwd="{file.passphrase}"
}}
""",
    )
    command: Command = [path_of("eapol_test"), "-c", network, "-a", "127.0.0.1", "-p", str(machine.port)]
    command += ["-s", SECRET, "-t", "10", "-r", "0"]
    told = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    names: list[str] = re.findall(r"\(User-Name\).*\n\s+Value: '(.*)'", told.stdout)
    # It writes bytes outside ASCII as \xc3.
    return (
        names[-1].encode().decode("unicode_escape").encode("latin-1").decode()
        if told.returncode == 0
        else None
    )


@contextmanager
def service_behind() -> Iterator[int]:
    """What is protected: it answers with the header that its address names. Its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            _answer(self, "|".join(self.headers.get_all(self.path.lstrip("/"), [])).encode("latin-1"))

        def log_message(self, *_: object) -> None:
            pass

    with _serving(Handler) as port:
        yield port


@dataclass(frozen=True, slots=True)
class Site:
    """`answers`: by path; None: an error 503."""

    url: str
    answers: dict[str, bytes | None]


@contextmanager
def fake_site(answers: Mapping[str, bytes]) -> Iterator[Site]:
    """Answers with entity tags, as CertBob does."""
    current: dict[str, bytes | None] = dict(answers)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = current[self.path]
            if body is None:
                self.send_error(503)
            else:
                _answer(self, body, etag=f'"{hashlib.sha256(body).hexdigest()}"')

        def log_message(self, *_: object) -> None:
            pass

    with _serving(Handler) as port:
        yield Site(f"http://127.0.0.1:{port}", current)


def _answer(handler: BaseHTTPRequestHandler, body: bytes, etag: str | None = None) -> None:
    if etag is not None and handler.headers["If-None-Match"] == etag:
        handler.send_response(304)
        handler.end_headers()
        return
    handler.send_response(200)
    if etag is not None:
        handler.send_header("ETag", etag)
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


@contextmanager
def _serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[int]:
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()
