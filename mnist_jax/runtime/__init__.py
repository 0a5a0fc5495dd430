"""What every command stands on: errors, configs, folders, signals, the command line."""
