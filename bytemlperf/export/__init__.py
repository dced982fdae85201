"""Metrics to Prometheus, a push gateway, OTLP."""
