"""One of everything that steerkit can be given from outside: copy the file that you need."""
