"""Worker interceptors: what runs hand on, budgets of activities, log context."""
