"""The highest load (request rate or concurrency) at which a stated share of requests meets every service level."""
