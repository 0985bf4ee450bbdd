"""What a user may ask for: plain data, checked when it is built. Imports neither torch nor a store."""
