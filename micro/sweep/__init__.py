"""All cases, each in a child process."""
