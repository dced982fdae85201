"""Engine adapters: one file per engine, `contract.py` is the whole interface."""
