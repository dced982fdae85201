"""Many run folders as one table: what is there, filtered, sorted, tagged, exported. The folders are the truth."""
