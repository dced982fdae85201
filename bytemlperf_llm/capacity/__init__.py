"""The highest request rate at which a stated share of requests meets every service level."""
