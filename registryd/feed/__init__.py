"""What billing tells the registry: contract events one by one, and files of contracts."""
