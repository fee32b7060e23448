"""One file per question; each prints what it ran on. `bench.demo` is what `make demo` runs."""
