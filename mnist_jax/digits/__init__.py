"""Any picture of a digit, brought to the form of the dataset's images."""
