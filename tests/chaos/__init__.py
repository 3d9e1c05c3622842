"""Everything dies, at random, under load, on the real node; then every account is compared with every other."""
