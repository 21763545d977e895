"""What does I/O on behalf of workflows: providers, tools, classification."""
