"""MLPerf's rules applied to runs: points and submissions of MLPerf Endpoints, and LoadGen's scenarios."""
