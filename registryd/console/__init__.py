"""The operator's console: pages made by the operate role, for persons. It reads the views and does what commands do."""
