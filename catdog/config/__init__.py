"""What users can configure: plain data, validated on construction. Imports neither torch nor a store."""
