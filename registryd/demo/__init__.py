"""The demo's invented population: contracts in the shape of reality, over real numbering ranges."""
