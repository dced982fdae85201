"""Records and summaries in other tools' formats: vLLM's JSON, CSV, Parquet, Prometheus."""
