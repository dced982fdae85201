"""What leaves a run folder: table, page sections, ByteMLPerf's report, PDF."""
