"""What every command needs: flags, configs, run folders, signals, errors, the compile cache."""
