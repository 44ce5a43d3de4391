"""Two training runs side by side: which setting changes device memory, and by how much."""
