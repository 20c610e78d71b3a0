"""What makes the site out of files that are not written for it alone: `make docs`, `make notebooks`."""
