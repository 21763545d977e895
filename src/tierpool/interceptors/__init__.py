"""Worker interceptors: snapshot hand-over and log context."""
