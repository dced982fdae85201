"""`bmp push`: carry the live metrics of a run of any suite on, where Prometheus can't come to scrape it.

It reads the page that a run serves (`--prometheus-port`) as a scrape does, and hands it to the receivers of
`export.push`; the run itself waits for nobody. `bmp-llm serve-bench` has the same receivers as flags of its own.
"""
