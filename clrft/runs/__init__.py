"""Run folders as records: manifest, provenance, integrity; read back."""
