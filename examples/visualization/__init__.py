"""Looking at a memory: numbers first, pictures of them apart."""
