"""What is true of the machine: cores, compiled programs on disk."""
