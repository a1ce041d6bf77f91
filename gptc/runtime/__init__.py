"""Opens, builds and runs artefacts.  Knows their folder format, never the compiler that emitted them."""
