"""What commands share: flags, exit statuses, signals, the console."""
