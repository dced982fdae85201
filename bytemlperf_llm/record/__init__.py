"""One request: its record, reader, gauges, stamps."""
