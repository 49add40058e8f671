"""The shipped YAML configs; a package so that an editable install and a wheel both find them."""
