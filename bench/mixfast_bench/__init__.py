"""What the methods cost on this machine: ``mixfast bench``. See ``bench/README.md`` for how numbers are taken."""
