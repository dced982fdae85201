"""Carry a run's live metrics on: to a Pushgateway, to Prometheus by remote write, to OpenTelemetry; and its requests as traces.

One way for all suites: a run serves its metrics (`--prometheus-port`), and `bmp push` reads them there as Prometheus
would. The run itself waits for nobody.
"""
