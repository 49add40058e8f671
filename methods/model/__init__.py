"""The policy: loading, adapters, types of its weights, frozen copies, the anchor."""
