"""What monitoring reads: counts of this process, and facts of this moment, in Prometheus' text format.

Labels are few and come from our own code; nothing that people type gets here.
"""

from collections.abc import Iterator
from datetime import datetime

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Metric,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.metrics_core import GaugeMetricFamily
from prometheus_client.registry import Collector

from certbob import __version__
from certbob.services import Services

REQUEST_BUCKETS = (0.01, 0.05, 0.25, 1, 5, 20)  # seconds; 20 is longer than anything takes


class Metrics:
    """Implements `services.Metrics`."""

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # they would be half of the text
        self._registry = registry = CollectorRegistry()
        self._events = Counter(
            "certbob_events", "Entries of the audit log", ["action", "door"], registry=registry
        )
        self._requests = Counter(
            "certbob_requests", "Answered requests", ["route", "method", "status"], registry=registry
        )
        self._seconds = Histogram(
            "certbob_request_seconds",
            "How long answers took",
            ["route", "method"],
            buckets=REQUEST_BUCKETS,
            registry=registry,
        )
        self._jobs = Gauge(
            "certbob_job_last_success_timestamp_seconds",
            "When a job last did its work; 0: not since the start",
            ["name"],
            registry=registry,
        )
        self._tls_end: datetime | None = None

    def count_event(self, action: str, door: str) -> None:
        self._events.labels(action, door).inc()

    def observe_request(self, route: str, method: str, status: int, seconds: float) -> None:
        self._requests.labels(route, method, f"{status // 100}xx").inc()
        self._seconds.labels(route, method).observe(seconds)

    def expect_job(self, name: str) -> None:
        self._jobs.labels(name)

    def job_succeeded(self, name: str, now: datetime) -> None:
        self._jobs.labels(name).set(now.timestamp())

    def tls_certificate_ends(self, moment: datetime) -> None:
        self._tls_end = moment

    def exposition(self, services: Services) -> bytes:
        return generate_latest(self._registry) + generate_latest(_Facts(services, self._tls_end))


class _Facts(Collector):
    """What is not known yet is left out."""

    def __init__(self, services: Services, tls_end: datetime | None) -> None:
        self._services = services
        self._tls_end = tls_end

    def collect(self) -> Iterator[Metric]:
        build = GaugeMetricFamily("certbob_build_info", "Always 1; which version runs", labels=["version"])
        build.add_metric([__version__], 1)
        yield build
        watch = self._services.watch
        if watch.authority_up is not None:
            yield _gauge("certbob_authority_up", "Whether certificates can be signed", watch.authority_up)
        if watch.storage_up is not None:
            yield _gauge("certbob_storage_up", "Whether the database can be written", watch.storage_up)
        if watch.is_paused is not None:
            yield _gauge("certbob_issuing_paused", "Whether an administrator has stopped it", watch.is_paused)
        yield from self._authority_certificates()
        yield from self._list()
        if self._tls_end is not None:
            yield _gauge(
                "certbob_tls_certificate_expiration_timestamp_seconds",
                "When the certificate ends that CertBob serves with",
                self._tls_end.timestamp(),
            )

    def _authority_certificates(self) -> Iterator[Metric]:
        trust = self._services.watch.trust
        if trust is None:
            return
        ends = GaugeMetricFamily(
            "certbob_ca_expiration_timestamp_seconds",
            "When the authority's certificates end; of several intermediates the first to end",
            labels=["which"],
        )
        ends.add_metric(["root"], trust.root.not_valid_after_utc.timestamp())
        if trust.intermediates:
            first = min(each.not_valid_after_utc for each in trust.intermediates)
            ends.add_metric(["intermediate"], first.timestamp())
        yield ends

    def _list(self) -> Iterator[Metric]:
        services = self._services
        of_authority = services.revocation_list or services.published_list
        if of_authority is None or (crl := of_authority.known) is None:
            return
        age = services.clock.now() - crl.this_update
        yield _gauge(
            "certbob_crl_age_seconds", "Since the list of revoked certificates was made", age.total_seconds()
        )
        yield _gauge(
            "certbob_crl_next_update_timestamp_seconds",
            "When services stop believing the list of revoked certificates",
            crl.next_update.timestamp(),
        )


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value)
