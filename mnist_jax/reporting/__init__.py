"""What a run reports: status lines, journal, TensorBoard, figures, profile."""
