"""The tests. They mirror the code (tests/rafs/test_cache.py for rafs/cache.py); tests/guest boots a guest."""
