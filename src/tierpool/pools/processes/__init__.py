"""Worker processes of one machine: how many there are, and their supervisor."""
