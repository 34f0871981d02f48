"""Figures for Prometheus, read by `GET /metrics`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ss4rec.serve.batcher import Batcher
from ss4rec.serve.guards import App, Message, Receive, Scope, Send
from ss4rec.serve.service import Service

BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)


class ServeMetrics:
    """The figures of one process.

    Args:
        service: what is looked at.
        batchers: by name.
    """

    def __init__(self, service: Service, batchers: dict[str, Batcher[Any, Any]]) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "ss4rec_serve_requests", "Requests.", ["path", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "ss4rec_serve_seconds",
            "Time from a request to its answer.",
            ["path"],
            buckets=BUCKETS_S,
            registry=self.registry,
        )
        self.registry.register(_Live(service, batchers))

    def text(self) -> bytes:
        """Return all figures in Prometheus' text format."""
        return generate_latest(self.registry)


class Measured:
    """Counts and times the requests of each route. Plain ASGI.

    Args:
        app: what answers.
        metrics: where that goes.
    """

    def __init__(self, app: App, metrics: ServeMetrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on and look at what comes back."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        began, status = time.perf_counter(), 500

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watch)
        finally:
            # The path of the route, never of the request: those of strangers are without number.
            path = getattr(scope.get("route"), "path", "other")
            self.metrics.requests.labels(path, str(status)).inc()
            self.metrics.seconds.labels(path).observe(time.perf_counter() - began)


class _Live(Collector):
    """Figures that are read when somebody asks."""

    def __init__(self, service: Service, batchers: dict[str, Batcher[Any, Any]]) -> None:
        self.service = service
        self.batchers = batchers

    def collect(self) -> Iterator[Metric]:
        """Yield them."""
        counts = self.service.counts
        yield GaugeMetricFamily(
            "ss4rec_serve_cached_users", "States that are kept.", self.service.cached_users
        )
        for name, value, what in (
            ("steps", counts.steps, "Events taken into a state one by one."),
            ("rebuilt", counts.rebuilt, "States encoded from all events."),
            ("loaded", counts.loaded, "States taken up from disk."),
            ("swaps", counts.swaps, "Models taken over."),
            ("refused_models", counts.refused, "Models that could not be loaded."),
        ):
            yield CounterMetricFamily(f"ss4rec_serve_{name}", what, value)
        for name, attribute in (("batches", "batches"), ("batched_requests", "requests")):
            family = CounterMetricFamily(f"ss4rec_serve_{name}", "Of each thread.", labels=["work"])
            for work, batcher in self.batchers.items():
                family.add_metric([work], getattr(batcher, attribute))
            yield family
        model = GaugeMetricFamily(
            "ss4rec_serve_model", "The model that answers.", labels=["name", "fingerprint"]
        )
        model.add_metric([self.service.model.name, self.service.model.fingerprint], 1.0)
        yield model
